#!/usr/bin/env node
// The compiler of the npm package, spoken to as forge speaks to a compiler binary: nothing is downloaded.

import { readFileSync, writeSync } from "node:fs";
import { createRequire } from "node:module";

const solc = createRequire(import.meta.url)("solc");

if (process.argv.includes("--version")) {
  print(`solc, the solidity compiler commandline interface\nVersion: ${solc.version()}\n`);
} else if (process.argv.includes("--standard-json")) {
  print(solc.compile(readFileSync(0, "utf8")));
} else {
  process.stderr.write("solc.mjs answers --version and --standard-json only\n");
  process.exitCode = 1;
}

// A pipe takes what fits; writing once and ending would cut a long answer short.
function print(text) {
  const bytes = Buffer.from(text, "utf8");
  for (let written = 0; written < bytes.length; ) {
    try {
      written += writeSync(1, bytes, written);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

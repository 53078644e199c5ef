// Compiles the two baseline contracts with the compiler of ../../contracts and writes baselines.json; `--check` compares.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const solc = createRequire(join(here, "..", "..", "contracts", "package.json"))("solc");
const target = join(here, "baselines.json");
const names = ["UpdateStore", "UpdateEvents"];

// As the ledger's own contracts are built.
const settings = {
  optimizer: { enabled: true, runs: 200 },
  evmVersion: "cancun",
  metadata: { bytecodeHash: "none" },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
};
const sources = Object.fromEntries(
  names.map((name) => [`${name}.sol`, { content: readFileSync(join(here, `${name}.sol`), "utf8") }]),
);
const output = JSON.parse(solc.compile(JSON.stringify({ language: "Solidity", sources, settings })));
const problems = output.errors ?? [];
for (const problem of problems) console.error(problem.formattedMessage);
if (problems.length > 0) process.exit(1);

const bytecodes = names.map((name) => [name, "0x" + output.contracts[`${name}.sol`][name].evm.bytecode.object]);
const text = JSON.stringify({ compiler: solc.version(), ...Object.fromEntries(bytecodes) }, null, 2) + "\n";
if (process.argv.includes("--check")) {
  if (readFileSync(target, "utf8") !== text) {
    console.error("baselines.json differs from a fresh build");
    process.exit(1);
  }
} else {
  writeFileSync(target, text);
}

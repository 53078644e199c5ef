// Compiles the contracts and writes engine/ledger/<Contract>.json; `--check` compares with the committed files.
//
// The output depends on the sources, the compiler version and the settings below, and on nothing else: no absolute
// path, no date, and no metadata hash at the end of the bytecode.

import { createHash } from "node:crypto";
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const require = createRequire(import.meta.url);
const solc = require("solc");

const here = dirname(fileURLToPath(import.meta.url));
const names = ["RoundLedger", "SyntheticLedger", "StudyLedger"];

const settings = {
  optimizer: { enabled: true, runs: 200 },
  // Pinned: newer targets use opcodes that the embedded chain may not know.
  evmVersion: "cancun",
  metadata: { bytecodeHash: "none" },
};

const digest = (text) => createHash("sha256").update(text, "utf8").digest("hex");
const check = process.argv.includes("--check");

for (const name of names) {
  const file = `engine/ledger/${name}.json`;
  const target = join(here, "..", file);
  const { text, size } = artefact(name);
  if (!check) {
    writeFileSync(target + ".new", text);
    renameSync(target + ".new", target);
    console.log(`wrote ${file} (${size} bytes of code)`);
  } else if (read(target) === text) {
    console.log(`${file} equals a fresh build`);
  } else {
    console.error(`${file} differs from a fresh build: run \`npm run build\` in contracts/`);
    process.exitCode = 1;
  }
}

function artefact(name) {
  const sourceName = `contracts/${name}.sol`;
  const contents = { [sourceName]: readFileSync(join(here, `${name}.sol`), "utf8") };

  // Called by the compiler for each import; remembers what was really used.
  function findImport(path) {
    const ours = /^contracts\/\w+\.sol$/.test(path);
    if (!ours && !path.startsWith("@openzeppelin/contracts/")) return { error: `import outside the packages: ${path}` };
    contents[path] = readFileSync(ours ? join(here, "..", path) : join(here, "node_modules", path), "utf8");
    return { contents: contents[path] };
  }

  const input = {
    language: "Solidity",
    sources: { [sourceName]: { content: contents[sourceName] } },
    settings: {
      ...settings,
      outputSelection: { [sourceName]: { [name]: ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
    },
  };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: findImport }));
  const problems = output.errors ?? [];
  for (const problem of problems) console.error(problem.formattedMessage);
  // Warnings fail the build too: what is committed compiles without a word.
  if (problems.some((problem) => problem.severity !== "info")) process.exit(1);

  const contract = output.contracts[sourceName][name];
  const text = {
    contract: name,
    abi: contract.abi,
    bytecode: "0x" + contract.evm.bytecode.object,
    deployedBytecode: "0x" + contract.evm.deployedBytecode.object,
    sources: Object.fromEntries(
      Object.keys(contents)
        .sort()
        .map((path) => [path, digest(contents[path])]),
    ),
    compiler: { version: solc.version(), settings },
  };
  return { text: JSON.stringify(text, null, 2) + "\n", size: contract.evm.deployedBytecode.object.length / 2 };
}

function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

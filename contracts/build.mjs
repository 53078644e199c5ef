// Compiles the contracts and writes engine/ledger/artefacts/<Contract>.json; `--check` compares with the committed files.
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
const names = ["RoundLedger", "ReputationLedger", "SyntheticLedger", "CommitteeLedger", "MaskLedger", "SuccessionLedger", "StudyLedger"];

const settings = {
  optimizer: { enabled: true, runs: 200 },
  // Pinned: newer targets use opcodes that the embedded chain may not know.
  evmVersion: "cancun",
  metadata: { bytecodeHash: "none" },
};

const contents = {};
for (const name of names) contents[sourceOf(name)] = readFileSync(join(here, "src", `${name}.sol`), "utf8");

const input = {
  language: "Solidity",
  sources: Object.fromEntries(Object.entries(contents).map(([path, content]) => [path, { content }])),
  settings: {
    ...settings,
    outputSelection: { "*": { "*": ["abi", "metadata", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: findImport }));
const problems = output.errors ?? [];
for (const problem of problems) console.error(problem.formattedMessage);
// Warnings fail the build too: what is committed compiles without a word.
if (problems.some((problem) => problem.severity !== "info")) process.exit(1);

for (const name of names) {
  const file = `engine/ledger/artefacts/${name}.json`;
  const target = join(here, "..", file);
  const text = JSON.stringify(artefact(name), null, 2) + "\n";
  if (!process.argv.includes("--check")) {
    writeFileSync(target + ".new", text);
    renameSync(target + ".new", target);
    const size = output.contracts[sourceOf(name)][name].evm.deployedBytecode.object.length / 2;
    console.log(`wrote ${file} (${size} bytes of code)`);
  } else if (read(target) === text) {
    console.log(`${file} equals a fresh build`);
  } else {
    console.error(`${file} differs from a fresh build: run \`npm run build\` in contracts/`);
    process.exitCode = 1;
  }
}

function sourceOf(name) {
  return `contracts/src/${name}.sol`;
}

// Called by the compiler for each import.
function findImport(path) {
  const ours = /^contracts\/src\/\w+\.sol$/.test(path);
  if (!ours && !path.startsWith("@openzeppelin/contracts/")) return { error: `import outside the packages: ${path}` };
  contents[path] ??= readFileSync(ours ? join(here, "..", path) : join(here, "node_modules", path), "utf8");
  return { contents: contents[path] };
}

function artefact(name) {
  const contract = output.contracts[sourceOf(name)][name];
  // The compiler lists what a contract really consists of.
  const sources = Object.keys(JSON.parse(contract.metadata).sources).sort();
  return {
    contract: name,
    abi: contract.abi,
    bytecode: "0x" + contract.evm.bytecode.object,
    deployedBytecode: "0x" + contract.evm.deployedBytecode.object,
    sources: Object.fromEntries(sources.map((path) => [path, digest(contents[path])])),
    compiler: { version: solc.version(), settings },
  };
}

function digest(text) {
  return createHash("sha256").update(text, "utf8").digest("hex");
}

function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

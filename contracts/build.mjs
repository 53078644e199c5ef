// Compiles RoundLedger.sol and writes engine/ledger/RoundLedger.json; `--check` compares with the committed file.
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
const target = join(here, "..", "engine", "ledger", "RoundLedger.json");
const sourceName = "contracts/RoundLedger.sol";

const settings = {
  optimizer: { enabled: true, runs: 200 },
  // Pinned: newer targets use opcodes that the embedded chain may not know.
  evmVersion: "cancun",
  metadata: { bytecodeHash: "none" },
};

const contents = { [sourceName]: readFileSync(join(here, "RoundLedger.sol"), "utf8") };

// Called by the compiler for each import; remembers what was really used.
function findImport(path) {
  if (!path.startsWith("@openzeppelin/contracts/")) return { error: `import outside the pinned packages: ${path}` };
  contents[path] = readFileSync(join(here, "node_modules", path), "utf8");
  return { contents: contents[path] };
}

const input = {
  language: "Solidity",
  sources: { [sourceName]: { content: contents[sourceName] } },
  settings: {
    ...settings,
    outputSelection: { [sourceName]: { RoundLedger: ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"] } },
  },
};
const output = JSON.parse(solc.compile(JSON.stringify(input), { import: findImport }));

const problems = output.errors ?? [];
for (const problem of problems) console.error(problem.formattedMessage);
// Warnings fail the build too: what is committed compiles without a word.
if (problems.some((problem) => problem.severity !== "info")) process.exit(1);

const contract = output.contracts[sourceName].RoundLedger;
const digest = (text) => createHash("sha256").update(text, "utf8").digest("hex");
const artefact = {
  contract: "RoundLedger",
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
const text = JSON.stringify(artefact, null, 2) + "\n";

if (process.argv.includes("--check")) {
  let committed = "";
  try {
    committed = readFileSync(target, "utf8");
  } catch {
    // Reported below as a difference.
  }
  if (committed !== text) {
    console.error("engine/ledger/RoundLedger.json differs from a fresh build: run `npm run build` in contracts/");
    process.exit(1);
  }
  console.log("engine/ledger/RoundLedger.json equals a fresh build");
} else {
  writeFileSync(target + ".new", text);
  renameSync(target + ".new", target);
  console.log(`wrote engine/ledger/RoundLedger.json (${(contract.evm.deployedBytecode.object.length / 2)} bytes of code)`);
}

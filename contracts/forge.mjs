// Runs forge and ends with its exit code. The launcher of the npm package ends with 0 whatever happened.

import { spawnSync } from "node:child_process";
import { createRequire } from "node:module";

const platform = `${process.platform}-${process.arch === "x64" ? "amd64" : process.arch}`;
const suffix = process.platform === "win32" ? ".exe" : "";
const binary = createRequire(import.meta.url).resolve(`@foundry-rs/forge-${platform}/bin/forge${suffix}`);
const done = spawnSync(binary, process.argv.slice(2), { stdio: "inherit" });
if (done.error) throw done.error;
process.exit(done.status ?? 1);

"use strict";
// What the peer starts.
const { RoundLedger } = require("./lib/ledger");

module.exports.RoundLedger = RoundLedger;
module.exports.contracts = [RoundLedger];

"use strict";
// What the peer starts.
const { RoundLedger } = require("./lib/ledger");
const { SuccessionLedger } = require("./lib/succession");

module.exports.RoundLedger = RoundLedger;
module.exports.SuccessionLedger = SuccessionLedger;
module.exports.contracts = [RoundLedger, SuccessionLedger];

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {CommitteeLedger} from "../src/CommitteeLedger.sol";
import {ICommitteeLedger} from "../src/ICommitteeLedger.sol";
import {IRoundLedger} from "../src/IRoundLedger.sol";
import {Base} from "./Base.sol";
import {Paired} from "./Paired.sol";

/// @dev A CommitteeLedger beside the RoundLedger of `Base`, and what it takes to drive it.
abstract contract CommitteeBase is Base {
    uint16 internal constant NO_SHARE = type(uint16).max;

    CommitteeLedger internal committees;
    bytes32[] internal none;

    function deployCommittee() internal {
        committees = new CommitteeLedger(ledger);
    }

    function slotsOf(uint32 a) internal pure returns (uint32[] memory slots) {
        slots = new uint32[](1);
        slots[0] = a;
    }

    function slotsOf(uint32 a, uint32 b) internal pure returns (uint32[] memory slots) {
        slots = new uint32[](2);
        (slots[0], slots[1]) = (a, b);
    }

    function packed(uint16[] memory shares) internal pure returns (bytes32[] memory words) {
        words = new bytes32[]((shares.length + 15) / 16);
        for (uint256 i = 0; i < shares.length; ++i) {
            words[i / 16] |= bytes32(uint256(shares[i]) << (16 * (i % 16)));
        }
    }

    /// @dev Of round 1; every share is zero.
    function sittingOf(uint32[] memory judges, uint32[] memory trainers, uint8 classes)
        internal
        pure
        returns (ICommitteeLedger.Sitting memory)
    {
        bytes32[] memory shares = packed(new uint16[](judges.length * trainers.length * classes));
        return ICommitteeLedger.Sitting(1, 50, classes, 0, 0, judges, new uint32[](0), trainers, shares);
    }

    /// @dev Four judges, of which one has trained, three updates, two classes; the second class at two judges only.
    function byHand() internal pure returns (ICommitteeLedger.Sitting memory sitting) {
        uint32[] memory judges = new uint32[](4);
        (judges[0], judges[1], judges[2], judges[3]) = (2, 3, 4, 5);
        uint32[] memory trainers = new uint32[](3);
        (trainers[0], trainers[1], trainers[2]) = (0, 1, 2);
        sitting = sittingOf(judges, trainers, 2);
        uint16[24] memory shares = [
            uint16(9000),
            5000,
            6000,
            1500,
            NO_SHARE,
            NO_SHARE,
            8000,
            NO_SHARE,
            5000,
            NO_SHARE,
            2000,
            NO_SHARE,
            10_000,
            7000,
            0,
            9000,
            4000,
            NO_SHARE,
            100,
            NO_SHARE,
            7000,
            NO_SHARE,
            1000,
            NO_SHARE
        ];
        uint16[] memory lanes = new uint16[](24);
        for (uint256 i = 0; i < 24; ++i) {
            lanes[i] = shares[i];
        }
        sitting.shares = packed(lanes);
    }

    /// @dev Seals the open round over a sitting.
    function sealSitting(ICommitteeLedger.Sitting memory sitting) internal returns (IRoundLedger.Header memory header) {
        header = nextHeader(Paired.leaf(abi.encode("root", progress().round)));
        header.annex = Paired.named("committee", committees.digest(sitting));
        seal(header);
    }
}

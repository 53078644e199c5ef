// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {StudyLedger} from "../src/StudyLedger.sol";
import {Base} from "./Base.sol";

contract StudyLedgerTest is Base {
    StudyLedger internal studies;
    bytes32 internal constant STUDY = keccak256("study");
    bytes32 internal constant DESIGN = keccak256("design");
    address internal constant REGISTRAR = address(0xB0);

    function setUp() public {
        studies = new StudyLedger(ADMIN, REGISTRAR);
        vm.prank(REGISTRAR);
        studies.registerStudy(STUDY, DESIGN, 2);
    }

    function record(uint64 sequence, uint32 trial, StudyLedger.Stage stage) internal {
        vm.prank(REGISTRAR);
        studies.recordTrial(STUDY, sequence, trial, stage, keccak256(abi.encode(sequence)));
    }

    function testHeads() public {
        bytes32 head = keccak256(abi.encode(block.chainid, address(studies), STUDY, DESIGN, uint256(2)));
        check(studies.studyState(STUDY).head == head, "head 0");
        bytes32 digest = keccak256(abi.encode(uint64(1)));
        head = keccak256(abi.encode(head, 1, 1, 1, digest));
        vm.prank(REGISTRAR);
        vm.expectEmit(address(studies));
        emit StudyLedger.TrialRecorded(STUDY, 1, 1, StudyLedger.Stage.BEGUN, digest, head);
        studies.recordTrial(STUDY, 1, 1, StudyLedger.Stage.BEGUN, digest);
        check(studies.studyState(STUDY).head == head, "head 1");
    }

    function testTrialsBeginOnceAndEndOnce() public {
        StudyLedger.Stage[4] memory ends =
            [StudyLedger.Stage.COMPLETE, StudyLedger.Stage.PRUNED, StudyLedger.Stage.FAILED, StudyLedger.Stage.NONE];
        for (uint32 trial = 0; trial < 2; ++trial) {
            uint64 next = 2 * trial + 1;
            for (uint256 i = 0; i < 4; ++i) {
                refuse(StudyLedger.StageOutOfOrder.selector, abi.encode(STUDY, trial, StudyLedger.Stage.NONE, ends[i]));
                record(next, trial, ends[i]);
            }
            record(next, trial, StudyLedger.Stage.BEGUN);
            check(studies.trialStage(STUDY, trial) == StudyLedger.Stage.BEGUN, "begun");
            refuse(
                StudyLedger.StageOutOfOrder.selector,
                abi.encode(STUDY, trial, StudyLedger.Stage.BEGUN, StudyLedger.Stage.BEGUN)
            );
            record(next + 1, trial, StudyLedger.Stage.BEGUN);
            record(next + 1, trial, ends[trial]);
            for (uint256 i = 0; i < 4; ++i) {
                refuse(StudyLedger.StageOutOfOrder.selector, abi.encode(STUDY, trial, ends[trial], ends[i]));
                record(next + 2, trial, ends[i]);
            }
        }
        StudyLedger.Study memory state = studies.studyState(STUDY);
        check(state.sequence == 4 && state.begun == 2 && state.ended == 2 && state.trials == 2, "counters");
    }

    function testRefusals() public {
        refuse(StudyLedger.SequenceOutOfOrder.selector, abi.encode(STUDY, 1, 2));
        record(2, 0, StudyLedger.Stage.BEGUN);
        refuse(StudyLedger.TrialOutOfRange.selector, abi.encode(STUDY, 2, 2));
        record(1, 2, StudyLedger.Stage.BEGUN);
        vm.prank(REGISTRAR);
        refuse(StudyLedger.StudyAlreadyRegistered.selector, abi.encode(STUDY));
        studies.registerStudy(STUDY, DESIGN, 3);
        vm.prank(REGISTRAR);
        refuse(StudyLedger.DesignIsZero.selector, abi.encode(DESIGN));
        studies.registerStudy(DESIGN, 0, 3);
        vm.prank(REGISTRAR);
        refuse(StudyLedger.StudyUnknown.selector, abi.encode(DESIGN));
        studies.recordTrial(DESIGN, 1, 0, StudyLedger.Stage.BEGUN, 0);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/// @dev Tree of sorted pairs in memory, written apart from the library under test; a node without a partner moves up.
library Paired {
    /// @dev A leaf is hashed twice.
    function leaf(bytes memory content) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(content)));
    }

    function named(string memory name, bytes32 digest) internal pure returns (bytes32) {
        return leaf(bytes.concat(keccak256(bytes(name)), digest));
    }

    function pair(bytes32 a, bytes32 b) internal pure returns (bytes32) {
        return a < b ? keccak256(bytes.concat(a, b)) : keccak256(bytes.concat(b, a));
    }

    function up(bytes32[] memory level) internal pure returns (bytes32[] memory above) {
        above = new bytes32[]((level.length + 1) / 2);
        for (uint256 i = 0; i < above.length; ++i) {
            above[i] = 2 * i + 1 < level.length ? pair(level[2 * i], level[2 * i + 1]) : level[2 * i];
        }
    }

    /// @dev Zero without leaves.
    function root(bytes32[] memory level) internal pure returns (bytes32) {
        if (level.length == 0) return 0;
        while (level.length > 1) level = up(level);
        return level[0];
    }

    function prove(bytes32[] memory level, uint256 position) internal pure returns (bytes32[] memory proof) {
        while (level.length > 1) {
            if (position ^ 1 < level.length) proof = append(proof, level[position ^ 1]);
            level = up(level);
            position /= 2;
        }
    }

    function append(bytes32[] memory list, bytes32 item) internal pure returns (bytes32[] memory longer) {
        longer = new bytes32[](list.length + 1);
        for (uint256 i = 0; i < list.length; ++i) {
            longer[i] = list[i];
        }
        longer[list.length] = item;
    }
}

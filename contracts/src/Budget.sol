// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

/**
 * @title Budget
 * @notice Privacy budgets in whole noised samples: of which one gradient was released, and of which two. What is left of
 * the second kind pays for the first, not the other way round.
 *
 * The annex of a round names, as "privacy", keccak256(abi.encode(terms, budget)), where `terms` is the digest of mechanism
 * and noise; a signed update holds keccak256(abi.encode(said, spent)), where `said` is the digest of all that it says.
 */
library Budget {
    /// @notice Keccak-256 of the name in an annex.
    bytes32 internal constant NAME = keccak256("privacy");

    /// @notice What an update has spent, of which budget.
    struct Account {
        /// Digest of the mechanism and its noise.
        bytes32 terms;
        /// Samples that each hospital may take, of which 1 and 2 gradients are released.
        uint64[2] budget;
        /// Digest of what the update says of the mechanism.
        bytes32 said;
        /// Samples that its hospital has taken so far.
        uint64[2] spent;
    }

    /**
     * @notice Returns what an annex names.
     * @param account The account.
     * @return The digest.
     */
    function terms(Account calldata account) internal pure returns (bytes32) {
        return keccak256(abi.encode(account.terms, account.budget));
    }

    /**
     * @notice Tells whether an update with this field `privacy` has spent more than the budget.
     * @param account The account.
     * @param privacy The field of the signed update.
     * @return True if the account is that of the update, and beyond the budget.
     */
    function isExceeded(Account calldata account, bytes32 privacy) internal pure returns (bool) {
        if (privacy != keccak256(abi.encode(account.said, account.spent))) return false;
        uint256 most = uint256(account.budget[0]) + account.budget[1];
        return uint256(account.spent[0]) + account.spent[1] > most || account.spent[1] > account.budget[1];
    }
}

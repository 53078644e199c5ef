"""What a book keeps."""

from engine.ledger.delivery import JournalTransaction


class Subject:
    """Something that a book keeps; one overrides what it needs."""

    def reset(self) -> None:
        """The book begins to go through its transactions: take up what the journal's rows say, and nothing of the chain."""

    def settled(self, done: JournalTransaction, live: bool) -> None:
        """The chain has taken a transaction of this account, of any purpose; `live`: just now, not in going through all.

        Raises:
            Contradiction: journal and contract then hold different things.
        """

    def restored(self) -> None:
        """The book went through all transactions: hold the contract against the journal.

        Raises:
            Contradiction: they hold different things.
        """

"""A hospital's side of synthetic beats: it asks, makes, measures and keeps, in its own process, with its own key.

    ask     signed requests, one for each class that it wants more beats of
    make    a preview is made of what waits for a reviewer, and measured; nobody trains on it
            what was granted is made and measured; the evidence goes into the run's folder, a signed report to the policy
    keep    accepted batches join the train part; they lie in the hospital's own file, for its next process

Each depends on the hospital's beats, the settings and their seed alone. So a process that was lost, or a run that was
interrupted, makes the same beats again, and no file of accepted beats is believed without its digests.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from engine.config import RunConfig
from engine.data.beats import Beats
from engine.data.samples import Samples
from engine.encoding import hexed, json_hash
from engine.errors import SynthesisError
from engine.files import whole, write_text
from engine.ledger.signer import Signer, Terms
from engine.ledger.subjects.synthetic import SignedPreview, SignedReport, SignedRequest
from engine.oracles.base import Batch
from engine.result import SyntheticRow
from engine.seeds import generator
from engine.synthesis.balance import wanted_beats
from engine.synthesis.config import NUMBERED, numbered
from engine.synthesis.distances import copies
from engine.synthesis.evidence import Measure, measured, nothing
from engine.synthesis.files import (
    batch_digest,
    count_file,
    evidence_file,
    hold_exactly,
    hospital_file,
    load_synthetic,
    picture_file,
    preview_file,
    provenance_file,
    save_provenance,
    save_synthetic,
)
from engine.synthesis.generators import Synthetic, flat, generate, joined, settings_digest
from engine.synthesis.picture import draw_alone
from engine.synthesis.quality import Anatomy
from engine.synthesis.timegan import interpreter

Generate = Callable[..., Synthetic]  # as `generators.generate`


class Workshop:
    """One hospital's, which alone reads its beats."""

    def __init__(
        self,
        hospital: int,
        config: RunConfig,
        train: Samples,
        held_out: Samples,
        anatomy: Anatomy,
        home: Path,
        generate: Generate = generate,
        measure: Measure = measured,
    ) -> None:
        """
        Args:
            train: the real train beats, which beats are made from.
            held_out: the validation part, which no generator sees.
            home: `synthetic/` in the run's folder.
        """
        self._hospital, self._settings, self._home = hospital, config.balance, home
        self._labels = config.data.labels  # by which classes are numbered in requests
        self._seed = config.seed if config.balance.seed is None else config.balance.seed  # given, repeats share beats
        self._train, self._held_out, self._anatomy = train, held_out, anatomy
        self._generate, self._measure = generate, measure
        self._made: dict[str, Synthetic] = {}  # by request, until it is known what was accepted

    def ask(self, signer: Signer, terms: Terms) -> tuple[SignedRequest, ...]:
        """Signed requests, by class. The number of real beats behind each is opened in a file of the run's folder.

        Raises:
            SynthesisError: the generator is not installed here.
            DataError: a file cannot be written.
        """
        method, settings, labels = self._settings.method, self._settings, self._train.labels()
        if method == "timegan":
            interpreter()  # every batch would be missing for want of it
        asked = []
        for name, wanted in wanted_beats(labels, self._anatomy.classes, settings).items():
            label = self._anatomy.classes.index(name)
            digest = settings_digest(method, settings, self._seed_of(name))
            count, class_ = int((labels == label).sum()), self._labels.index(name)
            signed = signer.request(
                terms,
                class_=class_,
                generator=NUMBERED.index(numbered(method)) + 1,
                quantity=wanted,
                real=count,
                settings=bytes.fromhex(digest),
            )
            opening = {"count": count, "salt": hexed(signer.count_salt(class_))}
            path = count_file(self._home, signed.identity(terms.signing.domain).hex())
            with whole(path, mode=0o600) as part:
                part.write_text(json.dumps(opening), encoding="utf-8")
            asked.append(signed)
        return tuple(asked)

    def make(
        self, signer: Signer, terms: Terms, granted: Sequence[SyntheticRow]
    ) -> tuple[SignedReport | SignedPreview, ...]:
        """Makes what was granted for each request, and reports on it; a preview of one that waits for a reviewer.

        A generator that fails reports that.
        """
        return tuple(
            (self._preview if row.status == "pending" else self._report)(signer, terms, row) for row in granted
        )

    def keep(self, accepted: Sequence[SyntheticRow]) -> None:
        """Keeps exactly these batches to train on; those of other hospitals are read from their files.

        Raises:
            SynthesisError: what is made now is not what was reported.
            DataError: a file cannot be written; another hospital's is missing or damaged.
        """
        path = hospital_file(self._home, self._hospital)
        batches = [(row.accepted, bytes.fromhex(row.batch or "")) for row in accepted]
        if not accepted:
            for old in (path, provenance_file(self._home, self._hospital)):
                old.unlink(missing_ok=True)
        elif not hold_exactly(path, batches):
            save_synthetic(path, joined(*self._batches(accepted)))
        self._made.clear()

    def added(self) -> Batch | None:
        """The beats that `keep` kept, in this process or an earlier one."""
        path = hospital_file(self._home, self._hospital)
        return load_synthetic(path) if path.exists() else None

    def _preview(self, signer: Signer, terms: Terms, row: SyntheticRow) -> SignedPreview:
        page = preview_file(self._home, row.request)
        beats, pictures = page.with_suffix(".npz"), [picture_file(page, real) for real in (False, True)]
        for old in (beats, *pictures):
            old.unlink(missing_ok=True)
        withheld = 0
        try:
            made, withheld = self._for_preview(row)
        except SynthesisError as error:
            count, batch, evidence = 0, bytes(32), nothing(str(error))
        else:
            count, batch = len(made), batch_digest(made.batch())
            parts = (self._train.batch(), self._held_out.batch())
            evidence = self._measure(*parts, made, self._anatomy, self._seed, pictures[1])
            draw_alone(made.batch(), self._anatomy, pictures[0])
            save_synthetic(beats, made.batch())
        drawn = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures if path.exists()}
        report = {"quality": evidence.report, "numbers": evidence.numbers, "pictures": drawn, "withheld": withheld}
        write_text(page, json.dumps(report, indent=1, allow_nan=False))
        return signer.preview(terms, bytes.fromhex(row.request), count, batch, json_hash(report))

    def _report(self, signer: Signer, terms: Terms, row: SyntheticRow) -> SignedReport:
        page = evidence_file(self._home, row.request)
        try:
            made = self._made[row.request] = self._new(row)
        except SynthesisError as error:
            count, batch, evidence = 0, bytes(32), nothing(str(error))
        else:
            count, batch = len(made), batch_digest(made.batch())
            parts = (self._train.batch(), self._held_out.batch())
            evidence = self._measure(*parts, made, self._anatomy, self._seed, page.with_suffix(".png"))
        write_text(page, json.dumps(evidence.report, indent=1, allow_nan=False))
        found = json_hash(evidence.report)
        return signer.report(terms, bytes.fromhex(row.request), count, batch, found, evidence.numbers)

    def _batches(self, accepted: Sequence[SyntheticRow]) -> list[Batch]:
        if {row.hospital for row in accepted} != {self._hospital}:  # the imaginary hospital has what others made
            makers = dict.fromkeys(row.hospital for row in accepted)
            return [load_synthetic(hospital_file(self._home, maker)) for maker in makers]
        made = [self._again(row) for row in accepted]
        notes = [
            {"hospital": self._hospital, "class": row.class_, **beat}
            for row, one in zip(accepted, made, strict=True)
            for beat in one.provenance()
        ]
        save_provenance(provenance_file(self._home, self._hospital), notes)
        return [one.batch() for one in made]

    def _new(self, row: SyntheticRow) -> Synthetic:
        """What is made for a grant, none of which may be a beat of the preview: a generator may not look at its seed."""
        made, shown = self._from_real(row), row.preview
        if shown is not None and shown.generated:
            seen = {beat.tobytes() for beat in self._shown(row).x}
            if any(beat.tobytes() in seen for beat in made.batch().x):
                raise SynthesisError("the generator made beats of the preview again, which are not for training.")
        return made

    def _from_real(self, row: SyntheticRow) -> Synthetic:
        return self._generated(row, row.granted, self._seed_of(row.class_))

    def _for_preview(self, row: SyntheticRow) -> tuple[Synthetic, int]:
        """The beats of a preview, and how many are withheld: others see it, so none may be a real beat but for noise.

        Raises:
            SynthesisError: none could be made, or all are withheld.
        """
        made = self._generated(row, self._settings.policy.preview, self._seed_of(row.class_, "preview"))
        real = np.concatenate([flat(part.batch().x) for part in (self._train, self._held_out)])
        fresh = ~copies(real, flat(made.x))[1]
        if not fresh.any():
            raise SynthesisError(
                f"all {len(made)} beats of the preview are real beats but for noise, and are not shown."
            )
        return replace(made, x=made.x[fresh], rr=made.rr[fresh], parents=made.parents[fresh]), int((~fresh).sum())

    def _shown(self, row: SyntheticRow) -> Batch:
        """The beats of a preview: those of its file, or made once more."""
        path = preview_file(self._home, row.request).with_suffix(".npz")
        if row.preview is not None and hold_exactly(path, [(row.preview.generated, bytes.fromhex(row.preview.batch))]):
            return load_synthetic(path)
        return self._for_preview(row)[0].batch()

    def _generated(self, row: SyntheticRow, wanted: int, seed: int) -> Synthetic:
        from threadpoolctl import threadpool_limits

        settings, label = self._settings, self._anatomy.classes.index(row.class_)
        with threadpool_limits(1):  # sums keep their order, wherever the hospital lives
            return self._generate(settings.method, self._train.batch(), label, wanted, settings, seed, row.request)

    def _again(self, row: SyntheticRow) -> Synthetic:
        """The beats that were accepted for a request: those of this process, or made once more."""
        made = self._made[row.request] if row.request in self._made else self._from_real(row)
        if (digest := batch_digest(made.batch()).hex()) != row.batch:
            raise SynthesisError(
                f"class {row.class_}: the beats made now are not those that were reported (digest {digest[:16]}, not "
                f"{str(row.batch)[:16]})."
            )
        return made

    def _seed_of(self, name: str, purpose: str = "synthesis") -> int:
        """Seed of the generator of one class."""
        return int(generator(self._seed, f"{purpose} {name}", hospital=self._hospital).integers(2**31))


def anatomy_of(beats: Beats) -> Anatomy:
    """What the quality tiers need to know of the windows."""
    return Anatomy(beats.classes, beats.window[0], float(beats.records[0]["sampling_rate"]), beats.rr_names)

"""Trains TimeGAN and draws from it, in a process and an environment of its own.

    python -I timegan_worker.py JOB.npz WEIGHTS.npz BEATS.npz

ydata-synthetic 1.4 wants TensorFlow 2.15 and numpy 1, which the rest of the project cannot live with, so this file
imports nothing of it. JOB.npz holds `data`, float32[n, steps, channels] in [0, 1], and `settings`, JSON. WEIGHTS.npz is
the cache: where it is there, nothing is trained. BEATS.npz receives `beats`, float32[wanted, steps, channels].

The library is used as it is, with three methods of one object wrapped from outside: batches and noise are drawn by
NumPy from the same distributions (the library builds a data pipeline anew for each batch), and `discriminator_loss`,
which it runs uncompiled, is compiled.
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its sums depend on the number of threads


def main(job: str, weights: str, out: str) -> None:
    import tensorflow as tf
    from ydata_synthetic.synthesizers import ModelParameters
    from ydata_synthetic.synthesizers.timeseries.timegan import model as library

    with np.load(job) as content:
        data, settings = content["data"], json.loads(str(content["settings"]))
    _say(f"TensorFlow {tf.__version__} on {'a GPU' if tf.config.list_physical_devices('GPU') else 'the CPU'}")
    # two threads are no faster at this size, and one keeps the order of sums
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(settings["seed"])
    n, steps, channels = data.shape
    batch = min(settings["batch_size"], n)
    gan = library.TimeGAN(
        ModelParameters(batch_size=batch, lr=settings["learning_rate"], latent_dim=settings["hidden"], gamma=1.0)
    )
    gan.seq_len, gan.n_seq, gan.num_cols = steps, channels, [f"c{i}" for i in range(channels)]
    draw = np.random.default_rng(settings["seed"])

    def batch_data(data, n_windows):  # type: ignore[no-untyped-def]
        return iter([tf.constant(rows[draw.permutation(n)[:batch]])])

    def batch_noise(size=None):  # type: ignore[no-untyped-def]
        return iter([tf.constant(draw.uniform(size=(size or batch, steps, channels)).astype(np.float32))])

    rows = data.astype(np.float32)
    gan.get_batch_data, gan.get_batch_noise = batch_data, batch_noise
    gan.discriminator_loss = tf.function(gan.discriminator_loss)
    library.tqdm = _progress
    if Path(weights).exists():
        gan.define_gan()
        with np.load(weights) as content:
            gan.generator.set_weights([content[f"w{i}"] for i in range(len(content.files))])
    else:
        gan.train(data=list(rows), train_steps=settings["steps"])
        values = gan.generator.get_weights()
        if not all(np.isfinite(value).all() for value in values):
            sys.exit("the weights are not finite; try a smaller learning rate")
        np.savez(weights, **{f"w{i}": value for i, value in enumerate(values)})
    draw = np.random.default_rng([settings["seed"], 1])  # the same beats, trained now or found
    frames = gan.sample(settings["wanted"])
    np.savez(out, beats=np.stack([frame.to_numpy(np.float32) for frame in frames]))


def _progress(steps, desc):  # type: ignore[no-untyped-def]
    """Stands in for tqdm: a plain line now and then."""
    started = said = time.monotonic()
    for step in steps:
        yield step
        now = time.monotonic()
        if now - said > 10 or step + 1 == len(steps):
            said = now
            _say(f"{desc.lower()}, {step + 1} of {len(steps)} steps in {now - started:.0f} s")


def _say(text):  # type: ignore[no-untyped-def]
    print(f"timegan: {text}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

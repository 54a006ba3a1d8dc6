"""Train a face restorer, a parser, landmarks, or search an architecture: HQ faces in, degraded on
the fly.

The demo, on synthetic faces, takes a few minutes on two cores:
    python train.py
Your own 512x512 faces, 1 % of them held out for validation:
    python train.py --data faces/ --preset srresnet
The challenge of 2022 in fifteen minutes, validated on pairs:
    python train.py --data train.txt --val pairs/ --preset unet --recipe ai6126_2022 \\
        --minutes 15 --out runs/mine
Four GPUs, with the same samples in four times the batch:
    torchrun --nproc-per-node 4 train.py --data faces/

Running the same command again resumes. A run directory holds config.json, log.jsonl, curves.png,
samples/, checkpoints/, best/ and, at the end, weights.safetensors.
"""

import program

import contextlib
import copy
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import torch
from msgspec import Meta
from torch import Tensor

import dali_pipes
import models
import storage
import tasks
from config import flags, presets, rules, schema
from config.schema import Config
from errors import FacesError, Interrupted, ProcessError, RunError
from storage import counted, records
from tasks import data as sources
from tasks.initial import init_weights
from tasks.players import Players, Step, autocast
from tasks.task import Scores, Task
from tasks.trial import trial
from training import checkpoint, log, memory, resume, run, soup, stop, watch
from training.ema import EMA
from training.lock import Lock
from training.machine import machine
from training.record import RunRecord
from training.world import World, first_on_gpu

MAX_SKIPPED = 10  # steps in a row with gradients that are not finite, after which a run gives up
READ_EVERY = 50  # steps between two looks at the losses on a GPU, which has to be waited for
EVEN, ODD = slice(0, None, 2), slice(1, None, 2)  # halves of a validation set


# ------------------------------------------------------------------------------------------------
# What a run is made of.


class StoredState(TypedDict):
    """TrainState as a checkpoint has it."""

    nimg: Annotated[int, Meta(ge=0, le=1 << 62)]
    seconds: Annotated[float, Meta(ge=0, le=1e12)]
    tick: Annotated[int, Meta(ge=0, le=1 << 62)]
    checks: Annotated[float, Meta(ge=0, le=1e12)]


@dataclass
class TrainState:
    """Where a run stands; a checkpoint holds it."""

    nimg: int = 0  # images seen
    seconds: float = 0.0  # time spent
    tick: int = 0  # validations done
    validation_seconds: float = 0.0  # of the fastest validation: others may have been disturbed

    def progress(self, config: Config) -> float:
        """Share of the run that is done. The last validations, one for every average kept, fit into
        --minutes.
        """
        length = config.optimization
        if length.nimg:
            return self.nimg / length.nimg
        assert length.minutes is not None
        # A run in minutes must have time left for what comes at its end.
        reserved = (2 + config.run.keep) * self.validation_seconds
        return self.seconds / max(60 * length.minutes - reserved, 1)

    def as_dict(self) -> dict[str, float]:
        """For a checkpoint."""
        return {
            'nimg': self.nimg,
            'seconds': self.seconds,
            'tick': self.tick,
            'checks': self.validation_seconds,
        }

    @classmethod
    def from_dict(cls, at: dict[str, Any]) -> 'TrainState':
        """What `as_dict` wrote. Raises BadFile for anything else."""
        stored = records.convert(at, StoredState)
        return cls(stored['nimg'], stored['seconds'], stored['tick'], stored['checks'])


@dataclass
class Training:
    """A run that is ready to go: what it learns, on what, and where it stands."""

    config: Config
    task: Task
    world: World
    images: Any  # to train on
    sets: dict[str, Any]  # validation sets; the run is judged by the first
    players: Players
    ema: EMA
    state: TrainState
    resumed: bool
    say: Callable[[str], None]
    record: RunRecord | None = None  # of the process that writes
    scores: dict[str, Scores] | None = None  # of the last validation
    bar: log.Progress | None = None  # the line on the terminal, once the loop runs

    @property
    def out(self) -> Path:
        """The run directory."""
        return Path(str(self.config.run.out))

    @property
    def first(self) -> str:
        """Name of the validation set that the run is judged by."""
        return next(iter(self.sets))

    @property
    def images_per_step(self) -> int:
        """Of all processes."""
        return self.config.images_per_step * self.world.size


# ------------------------------------------------------------------------------------------------
# The story of a run.


def train(config: Config, world: World, exit_stack: contextlib.ExitStack) -> int:
    """Train until the run is as long as its options say, or until it is stopped -> exit status.

    exit_stack: closes what a run holds when the process is done with it
    """
    say: Callable[[str], None] = print if world.main else lambda *_, **__: None
    use_machine(config, world)
    exit_stack.enter_context(first_on_gpu(world.device))
    training = build(config, world, say, exit_stack)
    say(headline(training))
    write_machine(training)
    signal = loop(training)
    if signal:
        return stop.status(signal)
    training.scores = training.scores or validate(training)
    if training.record:
        finish(training)
        training.record.close()
    return 0


def use_machine(config: Config, world: World) -> None:
    """Threads, seed and device of this process."""
    torch.set_num_threads(max((config.run.threads or 1) // world.local_size, 1))
    torch.manual_seed(config.run.seed)
    # Off by default: on a GPU some operations are several times faster without.
    torch.use_deterministic_algorithms(config.run.deterministic)
    if config.run.deterministic:
        # Of cuBLAS, which reads it when it is first used: torch refuses to multiply without.
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
    if world.device.index is not None:
        torch.cuda.set_device(world.device)  # what names no GPU means this one


def build(
    config: Config,
    world: World,
    say: Callable[[str], None],
    exit_stack: contextlib.ExitStack,
) -> Training:
    """Data, networks and optimizers of a run; everything again from its newest checkpoint, if there
    is one.

    A run that begins leaves nothing behind until all of it is known to be usable.
    """
    task = tasks.of(config)
    if task.max_processes is not None and world.size > task.max_processes:
        raise RunError(
            f'--preset {config.preset}: a {task.name} runs in one process, so that weights and '
            'architecture take turns; start it without torchrun'
        )

    out = str(config.run.out)
    images, sets, asked, newest = read_inputs(config, task, world, say, exit_stack)

    # Networks first, so that their random weights do not depend on what follows.
    players, state = task.build(config, world.device), TrainState()
    if newest is None:
        init_weights(config, players.net, say)
    ema = EMA(players.net, config.optimization.ema)
    if newest is not None:
        state = load(newest, players, ema, world.device)
    # All begin alike, and nobody has found anything wrong, before GPUs exchange anything.
    world.require_same(beginning(config, asked, newest))
    players = players.distributed(world, compiled=config.run.compile)

    training = Training(
        config, task, world, images, sets, players, ema, state, newest is not None, say
    )
    if world.main:
        if newest is None:
            nets = [player.net for player in players.by_name.values()]
            run.need_space(out, checkpoint.room(nets, config.run.keep))
            exit_stack.enter_context(Lock(out))
        asked.write(begins=newest is None)
        training.record = record_of(training)
    return training


def read_inputs(
    config: Config,
    task: Task,
    world: World,
    say: Callable[[str], None],
    exit_stack: contextlib.ExitStack,
) -> tuple[Any, dict[str, Any], resume.Run, Path | None]:
    """(images, validation sets, what the command asks for, checkpoint to go on from)"""
    out = str(config.run.out)
    # What one process has scanned or drawn, the others find.
    with world.main_first():
        if world.main and run.read_config(out) and run.has_checkpoint(out):
            exit_stack.enter_context(Lock(out))
        images, sets = task.load(config, say, log.bar if world.main else lambda _: None)
        asked = asked_for(config, world, images, sets)
        resumes = asked.resumes()
        # A store is tried before anything is written; a run that goes on has patience with it.
        if world.main and not resumes:
            sources.prove(config, images, world.size)
    newest = checkpoint.latest(out) if resumes else None
    world.saved = newest is not None
    return images, sets, asked, newest


def beginning(config: Config, asked: resume.Run, newest: Path | None) -> dict[str, str]:
    """What all processes have to begin with alike."""
    return {
        'the checkpoint to go on from, of --out': newest.name if newest else 'none',
        'the files of --data and --val': asked.known.digest(),
        '--precision': str(config.run.precision),
    }


def asked_for(config: Config, world: World, images: Any, sets: dict[str, Any]) -> resume.Run:
    """The run that the command means, to be compared with what the run directory holds."""
    return resume.Run(
        str(config.run.out),
        options=schema.flatten(config),
        defaults=schema.flatten(Config()),
        images_per_step=config.images_per_step * world.size,
        trained_on=sources.fingerprint(images),
        known=sources.known(config, images, sets),
    )


def record_of(training: Training) -> RunRecord:
    """What the process that writes keeps of the run."""
    out, nimg = training.out, training.state.nimg
    overlapped = training.world.device.type != 'cpu'
    soup.forget_after(out, nimg)
    return RunRecord(out, nimg, training.task.metric, training.say, overlapped=overlapped)


def load(path: Path, players: Players, ema: EMA, device: torch.device) -> TrainState:
    """Fill players and average from a checkpoint -> where the run stood."""
    weights, state = checkpoint.load(path, map_location=device)

    def take() -> TrainState:
        players.load(weights, state)
        updates = records.convert(state['ema_n'], Annotated[int, Meta(ge=0)])
        ema.load_state_dict({'n': updates, 'net': weights['ema']})
        return TrainState.from_dict(state['at'])

    return checkpoint.taken_over(path, take)


def network_name(config: Config) -> str:
    """The preset, and the network where it is another one than the preset's."""
    network = config.network.network
    own = presets.config(config.preset).network.network
    return config.preset if network == own else f'{network} (preset {config.preset})'


def headline(training: Training) -> str:
    """What is going to happen, in a line."""
    config, world = training.config, training.world
    on_cpu = world.device.type == 'cpu'
    degradation = config.degradation.recipe or 'no degradation'
    if dali_pipes.is_paired(training.images):
        degradation = 'degraded before'
    sets = ', '.join(
        f'{counted(len(v), "validation pair")} ({k})' for k, v in training.sets.items()
    )
    processes = f' x {world.size}' if world.size > 1 else ''
    feeding = f'{counted(config.run.threads or 1, "thread")} to feed'
    if on_cpu:
        feeding = f'feeding and training take turns on {counted(torch.get_num_threads(), "thread")}'
    resumed = f', resumed at {counted(training.state.nimg, "image")}' if training.resumed else ''
    return (
        f'{training.out}: {network_name(config)}, '
        f'{models.count(training.players.net):,} parameters{over_budget(training)}, {degradation}, '
        f'{counted(len(training.images), sources.kind(training.images))}, {sets}, '
        f'{config.run.precision} on {world.device}{processes}, {config.data.pipe} pipe, '
        f'{feeding}{resumed}'
    )


def over_budget(training: Training) -> str:
    """A word on a restorer that its challenge would refuse after days of training; '' on others."""
    config, count = training.config, models.count(training.players.net)
    entered = config.task == 'restore' and config.scale > 1 and count >= models.BUDGET
    return f' (too many for the challenge: fewer than {models.BUDGET:,})' if entered else ''


def write_machine(training: Training) -> None:
    """machine.json: on what the run computes."""
    if not training.world.main:
        return
    on_cpu = training.world.device.type == 'cpu'
    how = {
        'processes': training.world.size,
        'threads': torch.get_num_threads(),
        'feeding': 'in turns with training' if on_cpu else 'beside training',
    }
    storage.write_json(training.out / 'machine.json', machine() | how)


# ------------------------------------------------------------------------------------------------
# The loop.


def loop(training: Training) -> int:
    """Steps, validations and checkpoints until the end -> 0, or the signal that stopped the run
    before.
    """
    config, world, state = training.config, training.world, training.state
    saved, spent = time.monotonic(), 0.0
    on_skip = training.record.log.append if training.record else lambda row: None
    meter = watch.LossMeter(training.images_per_step, MAX_SKIPPED, on_skip)

    with stop.Stop() as stopping, open_pipe(training) as pipe, open_bar(training) as bar:
        training.bar = bar
        # Data that may never come is not waited for then.
        stopping.then = pipe.interrupt
        while True:
            # What every process must decide alike. Waiting for the slowest of them is time, too.
            started = time.monotonic()
            stopped, saving, state.seconds = world.agree(
                stopping.requested,
                time.monotonic() - saved > 60 * config.run.save_minutes,
                state.seconds + spent,
            )

            # Validations lie evenly over the run; a checkpoint follows each. One that is due at a
            # stop is made by the run that goes on: who sent the signal does not wait for long.
            due = (
                not stopped
                and state.nimg > 0
                and state.progress(config) >= (state.tick + 1) / config.run.ticks
            )
            if due:
                validate_tick(training, bar)
            if due or (saving and state.nimg):
                save(training)
                saved = time.monotonic()
            if stopped or state.progress(config) >= 1:
                break

            try:
                take_step(training, pipe, meter, bar)
            except Interrupted:
                # The other processes wait for this one's share of the step, which never comes.
                if world.size > 1:
                    return stopping.requested
            spent = time.monotonic() - started
        if stopped:
            save(training)
            training.say(stopped_message(training, stopping.name))
            return stopped
        bar.update(state.nimg, share=1.0)
    return 0


def take_step(
    training: Training, pipe: Iterator[Any], meter: watch.LossMeter, bar: log.Progress
) -> None:
    """Batches in, all players one step further, their average too, and what is shown of it."""
    config, state = training.config, training.state
    step = next_step(training)
    result = training.task.step(training.players, pipe, step)
    training.ema.update(training.players.net, step.images)
    state.nimg += step.images

    # Reading a loss makes a GPU wait, so there it is done now and then.
    meter.add(state.nimg, result.losses, result.skipped)
    if training.world.device.type == 'cpu' or len(meter) == READ_EVERY:
        meter.read()

    progress = state.progress(config)
    bar.update(
        state.nimg,
        result.waited,
        progress,
        **meter.smoothed,
        lr=step.lr,
        **memory.used(training.world.device),
    )
    if training.record:
        training.record.step(state.nimg, progress, meter.take_means, step.lr)


def next_step(training: Training) -> Step:
    """Where the run stands and how it computes, for the task."""
    config, progress = training.config, training.state.progress(training.config)
    return Step(
        nimg=training.state.nimg,
        progress=progress,
        lr=rules.learning_rate(progress, config),
        images=training.images_per_step,
        accumulate=config.optimization.accumulate,
        autocast=autocast(config.run.precision, training.world.device),
        world=training.world,
    )


def open_pipe(training: Training) -> Any:
    """The batches from where the run stands."""
    config, world = training.config, training.world
    # Several processes on one machine share its cores.
    threads = torch.get_num_threads() if world.size > 1 else config.run.threads
    return training.task.feed(
        config,
        training.images,
        start=training.state.nimg,
        rank=world.rank,
        world=world.size,
        device=world.device,
        threads=threads,
        say=training.say,
    )


def open_bar(training: Training) -> log.Progress:
    """The line on the terminal."""
    quiet = not training.world.main
    return log.Progress(training.config.optimization.nimg, training.state.nimg, quiet=quiet)


def stopped_message(training: Training, reason: str | None) -> str:
    """What to say of a run that was stopped."""
    return (
        f'\nstopped by {reason or "another process"} at {training.state.nimg:,} images and saved: '
        'the same command goes on from here'
    )


# ------------------------------------------------------------------------------------------------
# Validations and checkpoints.


def validate_tick(training: Training, bar: log.Progress) -> None:
    """One of the validations that lie evenly over the run."""
    config, state = training.config, training.state
    started = time.monotonic()
    state.tick = int(state.progress(config) * config.run.ticks)
    training.scores = validate(training)
    # Clocks differ, and on them hangs when --minutes are over, which all processes must see alike.
    _, _, took = training.world.agree(0, False, time.monotonic() - started)
    state.validation_seconds = min(took, state.validation_seconds or took)
    value = training.scores[training.first].value()
    bar.update(state.nimg, **{training.task.metric.key: value})


def validate(training: Training) -> dict[str, Scores]:
    """Scores of the weight average on every set; the best averages are kept."""
    config, world, state = training.config, training.world, training.state
    # The average is what is judged and kept, not the weights of the moment.
    net = training.ema.net
    models.refresh_spectral_norm(net)  # early in a run one step of estimates an update is too few
    # Statistics of batches are each process's own, but one network is judged and kept.
    world.spread(net.buffers())
    scores = {
        name: training.task.validate(net, data, config, world.device, world)
        for name, data in training.sets.items()
    }
    if training.record:
        # Averages compete on the even images; the odd ones stay out of it, to judge the winner.
        even = scores[training.first].value(EVEN)
        soup.save_candidate(training.out, state.nimg, net.state_dict(), even, config.run.keep)
        assert training.bar is not None
        training.record.validation(
            state.nimg,
            scores,
            training.players.skipped(),
            seconds=round(state.seconds, 1),
            **training.bar.figures(),
        )
    return scores


def save(training: Training) -> None:
    """A checkpoint."""
    if training.world.main:
        checkpoint.save(
            training.out,
            training.state.nimg,
            training.players.weights() | {'ema': training.ema.net.state_dict()},
            training.players.state() | {'ema_n': training.ema.n, 'at': training.state.as_dict()},
        )
    # Known before the others are waited for, one of which may be gone.
    training.world.saved = True
    training.world.barrier()


# ------------------------------------------------------------------------------------------------
# The end.


def finish(training: Training) -> None:
    """Write weights.safetensors, result.json and what else the task leaves, and say so.

    The weights are the last average, or the mean of the best ones if that is better on the even
    images of the validation set; the odd ones, which chose nothing, judge it.
    """
    assert training.scores is not None
    out, last = training.out, training.scores[training.first]
    weights, best, parts = training.ema.net.state_dict(), last, ['the last average']
    averaged = average_of_best(training, last)
    if averaged is not None:
        weights, best, parts = averaged
    checkpoint.save_weights(out / 'weights.safetensors', weights)
    lines = training.task.finish(training.config, training.ema.net)

    result = best.row() | {'made_of': parts}
    if len(training.sets[training.first]) > 1:
        result['even_half'] = best.value(EVEN)
        result['odd_half'] = best.value(ODD)
        result['odd_half_last_average'] = last.value(ODD)
    storage.write_json(out / 'result.json', result)

    minutes = training.state.seconds / 60
    print(f'{best.sentence()}, {training.state.nimg:,} images in {minutes:.1f} minutes')
    if averaged is not None:
        unit = training.task.metric.unit
        print(
            f'weights: mean of the averages at {", ".join(parts)}, chosen on the even images; on '
            'the odd ones '
            f'{best.value(ODD):.3f} {unit}, the last average {last.value(ODD):.3f} {unit}'
        )
    print('\n'.join([*lines, f'use it with: python infer.py --run {out} --input FOLDER']))


def average_of_best(
    training: Training, last: Scores
) -> tuple[dict[str, Tensor], Scores, list[str]] | None:
    """(weights, scores, parts) of the mean of the best averages; None if it is no better than the
    last one.
    """
    config, task, data = training.config, training.task, training.sets[training.first]
    enough = len(data) > 1 and len(soup.candidates(training.out)) > 1
    if not enough or not task.averages(config):
        return None
    # A network of its own: the average must survive a soup that is worse.
    probe = copy.deepcopy(training.ema.net)
    scores: list[Scores] = []

    def score(weights: dict[str, Tensor]) -> float:
        probe.load_state_dict(weights)
        models.refresh_spectral_norm(probe)
        scores.append(task.validate(probe, data, config, training.world.device))
        return scores[-1].value(EVEN)

    best = soup.greedy_soup(training.out, probe.state_dict(), score)
    # Candidates may all be damaged.
    if best is None or best.score <= last.value(EVEN):
        return None
    score(best.weights)
    return probe.state_dict(), scores[-1], [f'{nimg:,} images' for nimg in best.parts]


# ------------------------------------------------------------------------------------------------
# The command.


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says -> exit status."""
    config = tasks.configure(argv, __doc__)
    if flags.is_dry(argv):
        print(json.dumps(schema.flatten(config), indent=2))
        return 0
    world = World(torch.device(str(config.run.device)))
    try:
        with world, contextlib.ExitStack() as stack:
            return train(config, world, stack)
    except torch.OutOfMemoryError:
        pass  # what holds the memory is let go of with the exception, after this block
    except RuntimeError as error:
        if not world.is_peer_failure(error):
            raise
        raise world.peer_lost(error) from error
    except FacesError as error:
        world.attribute(error)
        raise
    except OSError as error:
        if error.errno not in program.REFUSALS:
            raise
        # A full or read-only disk: nothing that was written before is lost.
        raise ProcessError(
            f'{error.filename or config.run.out} cannot be written: {error.strerror}; the last '
            'checkpoint is whole'
        ) from error
    raise ProcessError(memory_advice(config, world.device))


def memory_advice(config: Config, device: torch.device) -> str:
    """Which batch would fit, found by trials once the run has let go of its memory."""
    gc.collect()
    return memory.advice(
        config.optimization.batch,
        config.optimization.accumulate,
        device,
        peak=lambda batch: memory.peak(device, lambda: trial(config, device, batch)),
    )


if __name__ == '__main__':
    sys.exit(main())

"""Whether a command begins a run, goes on with one, or means another one.

A run is known by its options, by its data and by the images of a step. Paths are what they lead
to, and data may have moved as long as it is the same.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import storage
from degrade import codec, recipe_file, recipe_text
from errors import RunError
from sources import identity
from sources.identity import File
from storage import printable, records, shown

from . import checkpoint, places, run, soup

# Options that hold files which every start reads: not only where they lie counts.
READ = ('landmarks', 'vgg', 'parser', 'lpips')
# What a run is not known by: it may differ, or is judged otherwise.
NOT_COMPARED = run.FREE | {
    'batch',
    'accumulate',
    'format',
    'images',
    'images_per_step',
    'fingerprint',
}
LARGEST = 1 << 30  # bytes of data.json, which names every file of a data set
# What is left of a run that has got somewhere.
REMAINS = ('checkpoints', 'best', 'weights.safetensors', 'result.json', 'log.jsonl')


@dataclass
class Known:
    """What a run reads, for data.json: the files of each set by name, in their order."""

    train: list[File] = field(default_factory=list)
    val: dict[str, list[File]] = field(default_factory=dict)
    files: dict[str, list[File]] = field(default_factory=dict)  # by option

    def digest(self) -> str:
        """A word that stands for everything."""
        every = self.train, *self.val.values(), *self.files.values()
        return identity.digest(File(identity.digest(files), 0) for files in every)

    def differences(self, now: 'Known') -> list[str]:
        """What is not any more as it was, by the flag that names it."""
        # A set that has moved may be called after its new folder.
        sets = zip(self.val.items(), now.val.values(), strict=False)
        pairs = [('--data', self.train, now.train)]
        pairs += [(f'--val {name}', was, present) for (name, was), present in sets]
        pairs += [(f'--{k}', was, now.files.get(k, [])) for k, was in self.files.items()]
        said = ((flag, identity.difference(was, present)) for flag, was, present in pairs)
        return [f'{flag}: {what.strip()}' for flag, what in said if what]


def files_of(options: Mapping[str, Any]) -> dict[str, list[File]]:
    """The files that options name, for `Known`."""
    found = {}
    for option in READ:
        if options.get(option):
            path = Path(options[option])
            found[option] = identity.of_file(path / checkpoint.FINISHED if path.is_dir() else path)
    text = resolved_recipe(options)
    if text:
        found['recipe'] = identity.of_text(text)
    return found


def resolved_recipe(options: Mapping[str, Any]) -> str:
    """A recipe of the user's own with all that it extends, '' of another. Raises RecipeError."""
    name = str(options.get('recipe'))
    return recipe_text.text(recipe_file.read(name)) if name.endswith('.toml') else ''


def codecs(options: Mapping[str, Any]) -> dict[str, str]:
    """Versions of the libraries that decide about the bits of a deterministic run.

    They are those of the codecs in a recipe of the user's own.
    """
    name = str(options.get('recipe'))
    if not options.get('deterministic') or not name.endswith('.toml'):
        return {}
    # Where bits may differ between machines anyway, a new library is no reason to end a run.
    found: dict[str, str] = {}
    for stage in recipe_file.read(name).stages:
        if stage.op is codec:
            found |= codec.versions(stage.ranges.get('kinds', codec.EVERY))
    return found


@dataclass(frozen=True)
class Run:
    """A run directory, and the run that a command asks for.

    options: of the command, ready for JSON
    defaults: of all options, for those that an earlier version did not have
    images_per_step: of all processes
    trained_on: the training data in words, as runs of earlier versions hold it
    """

    out: str
    options: Mapping[str, Any]
    defaults: Mapping[str, Any]
    images_per_step: int
    trained_on: str
    known: Known

    def content(self) -> dict[str, Any]:
        """config.json."""
        # As JSON has it: tuples have become lists, for instance.
        plain: dict[str, Any] = json.loads(json.dumps(self.options))
        versions = codecs(self.options)
        return (
            places.absolute(plain)
            | ({'codecs': versions} if versions else {})
            | {
                'out': os.path.realpath(self.out),
                'format': run.FORMAT,
                'images': self.trained_on,
                'images_per_step': self.images_per_step,
                'fingerprint': self.known.digest(),
            }
        )

    def resumes(self) -> bool:
        """Whether there is something to go on with; nothing is written.

        Raises RunError if the directory holds another run, or a part of one.
        """
        stored = run.read_config(self.out)
        if not stored:
            self._check_empty()
            return False
        # The format comes first: options of another one differ in ways that would mislead.
        _check_format(self.out, stored)
        if not run.has_checkpoint(self.out):
            self._check_unfinished()
            return False
        self._check_same(stored)
        return True

    def write(self, begins: bool) -> None:
        """config.json and data.json, where they are not yet so. begins: the run, here and now"""
        out, content = Path(self.out), self.content()
        stored = run.read_config(out)
        if begins and run.has_checkpoint(out):
            raise RunError(
                f'--out {shown(out)} was taken by another process meanwhile: give another one, or '
                'the same command again to go on with it'
            )
        if not begins:
            # The run that began says how its steps are made up; only places may have changed.
            taken = (*places.OPTIONS, 'out', 'images_per_step', 'fingerprint')
            content = stored | {name: content[name] for name in taken if name in content}
        if content != stored:
            text = resolved_recipe(self.options)
            if text:
                storage.write(out / run.RECIPE, text.encode())
            # What names the files first: config.json says that they are known.
            storage.write(out / 'data.json', (json.dumps(asdict(self.known)) + '\n').encode())
            storage.write_json(out / 'config.json', content)

    # ---- what there is ----

    def _check_empty(self) -> None:
        found = _remains(self.out)
        if found:
            raise RunError(
                f'--out {shown(self.out)} holds {found} but no config.json, which says what run it '
                'is: put it back, or give another --out'
            )

    def _check_unfinished(self) -> None:
        """A run that was stopped before its first checkpoint begins anew; no other does."""
        finished = (Path(self.out) / checkpoint.FINISHED).exists()
        if finished or len(soup.candidates(self.out)) > 1:
            raise RunError(
                f'--out {shown(self.out)} holds {_remains(self.out)} of a run whose checkpoints '
                'are gone: put them back, or give another --out'
            )

    # ---- the same run ----

    def _check_same(self, stored: Mapping[str, Any]) -> None:
        was, now = places.located(self.out, {**self.defaults, **stored}), self.content()
        same = self.known.digest() == stored.get('fingerprint')
        differs = [
            f'{printable(option, 40)}: was {records.excerpt(stored.get(option), 80)}, '
            f'now {records.excerpt(self.options.get(option, now.get(option)), 80)}'
            for option in sorted({*was, *self.options} - NOT_COMPARED)
            if was.get(option) != now.get(option)
            and not (same and option in places.OPTIONS)
            and not places.alike(option, was, now)
            and not (option == 'recipe' and _are_files(was.get(option), now.get(option)))
        ]
        differs += self._steps(stored)
        if differs:
            differs += _changed('images', stored.get('images'), self.trained_on)
            raise RunError(
                f'{shown(self.out)} was made with other options ({"; ".join(differs)}): '
                'give the same ones to resume, or another --out'
            )
        if not same:
            self._check_data(stored)

    def _steps(self, stored: Mapping[str, Any]) -> list[str]:
        was = stored.get('images_per_step') or _earlier_images_per_step(self.out, stored)
        what = 'images of a step (--batch x --accumulate x processes)'
        return _changed(what, was, self.images_per_step)

    def _check_data(self, stored: Mapping[str, Any]) -> None:
        """Raise RunError, which names what differs, if data is not that of the run."""
        differs: Sequence[str] = ()
        if 'fingerprint' in stored:
            differs = _read_known(self.out).differences(self.known) or ['the files are others']
        else:
            differs = _changed('--data', stored.get('images'), self.trained_on)
        if differs:
            raise RunError(
                f'{shown(self.out)} was made with other data ({"; ".join(differs)}): put back what '
                'was there to resume, or give another --out'
            )


def _are_files(*recipes: Any) -> bool:
    """Whether recipes are the user's own, which are compared by what they say."""
    return all(str(name).endswith('.toml') for name in recipes)


def _changed(what: str, was: Any, now: Any) -> list[str]:
    said = f'{what}: was {records.excerpt(was, 80)}, now {records.excerpt(now, 80)}'
    return [] if was == now else [said]


def _check_format(out: str, stored: Mapping[str, Any]) -> None:
    found = stored.get('format', 1)
    if found != run.FORMAT:
        raise RunError(
            f'{shown(out)} has format {found} of run directories, this version writes '
            f'{run.FORMAT}: finish it with the version that made it, or give another --out (its '
            'weights can still be restored with: infer.py)'
        )


def _remains(out: str) -> str:
    """Which parts of a run a folder holds, in words."""

    def left(name: str) -> bool:
        path = Path(out, name)
        return any(path.iterdir()) if path.is_dir() else path.exists()

    return ', '.join(filter(left, REMAINS))


def _read_known(out: str) -> Known:
    path = Path(out, 'data.json')
    try:
        return records.read(path, Known, 'restore it, or give another --out', LARGEST)
    except FileNotFoundError:
        return Known()


def _earlier_images_per_step(out: str, stored: Mapping[str, Any]) -> int:
    """Of a run of an earlier version, which wrote the number of its processes elsewhere."""
    machine: Mapping[str, Any] = {}
    with contextlib.suppress(FileNotFoundError, RunError):  # then there was one
        machine = records.read(Path(out, 'machine.json'), dict[str, Any], 'remove it')
    processes = machine.get('processes')
    each = stored.get('batch', 1) * stored.get('accumulate', 1)
    return each * (processes if isinstance(processes, int) else 1)

"""What the command lines of tools and benchmarks have in common."""

import program

import argparse

import degrade


def described(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose --help begins with a docstring, its lines as they are."""
    return argparse.ArgumentParser(description=doc, formatter_class=program.Formatter)


def names(text: str) -> list[str]:
    """The words of a comma-separated list."""
    return text.split(',')


def recipe(text: str) -> str:
    """The name of a recipe; an unknown one is refused with the nearest."""
    try:
        return degrade.recipe(text).name
    except ValueError as e:
        raise argparse.ArgumentTypeError(str(e)) from None

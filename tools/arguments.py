"""What the command lines of tools and benchmarks have in common."""

import program

import argparse

import degrade
from errors import RecipeError


def described(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose --help begins with a docstring, its lines as they are."""
    return argparse.ArgumentParser(description=doc, formatter_class=program.Formatter)


def names(text: str) -> list[str]:
    """The words of a comma-separated list."""
    return text.split(',')


def recipe(text: str) -> str:
    """The name of a recipe, or a file of one; an unknown one is refused with the nearest."""
    try:
        degrade.recipe(text)
    except (ValueError, RecipeError) as e:
        raise argparse.ArgumentTypeError(str(e)) from None
    return text

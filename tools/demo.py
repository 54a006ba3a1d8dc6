"""A page in the browser on which photographs are restored, on this machine.

python tools/demo.py             with the weights that come along, at http://127.0.0.1:7860
python tools/demo.py --run runs/mine --port 8000
python tools/demo.py --weights MSRResNet.pth --device cpu
python tools/demo.py --host 0.0.0.0 --max-mb 20       for everybody who reaches this machine

One photo is restored at a time, the others wait. Nothing is kept: uploads and results lie in a
temporary folder, for ten minutes at most, which is deleted when the program ends (Ctrl-C). The
page asks no other machine for anything. The packages: pip install -e .[demo]
"""

import program

import argparse
import errno
import functools
import importlib
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from errors import RunError
from sources.files import MOST
from tasks import loading, photo_flags, shipped
from tools import arguments
from tools.demo_photo import Answer, Restorer, answer

# Seconds for which uploads and results are kept, and after which it is looked for old ones.
KEPT, EVERY = 600, 60
PIXELS = 1 << 26  # of a photo of a telephone, twice as large
TERMINATED = 128 + signal.SIGTERM
LOOPBACK = '127.0.0.1', 'localhost', '::1'
# Nothing is told to Gradio's makers; its look at its own page goes through no proxy.
SETTINGS = {
    'GRADIO_ANALYTICS_ENABLED': 'False',
    'no_proxy': '*',
}
ABOUT = f"""# Restore faces

Upload a photo: its faces are restored, and the rest of it is enlarged. Photo and result are deleted
from this machine after {KEPT // 60} minutes.
"""


# ------------------------------------------------------------------------------------------------
# The page.


def page(
    ask: Callable[..., Answer], limits: str, waiting: int, fidelity: float | None = None
) -> Any:
    """Return the page as gradio.Blocks.

    ask:      demo_photo.answer, of (path, scale, keep, fidelity, known)
    limits:   what may be uploaded, in words
    waiting:  photos that may wait
    fidelity: to begin with; None where the network has one only
    """
    import gradio as gr

    with gr.Blocks(title='Restore faces', delete_cache=(EVERY, KEPT)) as blocks:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(scale=1, min_width=280):
                *given, button = _given(gr, limits, fidelity)
                _refuse_addresses(given)
            with gr.Column(scale=2, min_width=280):
                said, views, download = _told(gr)
        faces = _gallery(gr)
        known = gr.State(time_to_live=KEPT)

        def shown(path: Any, scale: int, auto: bool, keep: float, *rest: Any) -> list[Any]:
            new = ask(path, scale, None if auto else keep, *rest)
            label = f'Download {Path(new.file).name}' if new.file else 'Download'
            file = gr.DownloadButton(label, new.file, interactive=new.file is not None)
            gallery = gr.Gallery(new.faces, visible=new.faces is not None)
            return [new.said, new.views, gallery, file, new.known]

        def once_more(*asked: Any) -> Any:
            return gr.skip() if asked[-1] is None else shown(*asked)

        how: dict[str, Any] = dict(
            inputs=[*given, known],
            outputs=[said, views, faces, download, known],
            # One at a time, whatever asks.
            concurrency_id='network',
            api_visibility='private',
        )
        button.click(shown, **how)
        _, scale, auto, keep, faithful = given
        changed = [scale.input, auto.input, keep.release, faithful.release]
        gr.on(changed, once_more, trigger_mode='always_last', **how)
        # Only where there is something to turn.
        auto.input(lambda on: gr.Slider(visible=not on), auto, keep, api_visibility='private')
    blocks.queue(max_size=waiting, default_concurrency_limit=1)
    return blocks


def _given(gr: Any, limits: str, fidelity: float | None) -> tuple[Any, ...]:
    """What a visitor gives: photo, scale, whether what is sharp is kept, else how much of all,
    fidelity, and the button.
    """
    upload = gr.File(label='Photo', height=150)
    gr.Markdown(f'Upload {limits}.')
    scale = gr.Radio([('1x', 1), ('2x', 2), ('4x', 4)], value=2, label='Enlarge')
    auto = gr.Checkbox(
        True, label='Keep what is sharp', info='faces that are sharper than they would become'
    )
    keep = gr.Slider(
        0,
        1,
        0,
        step=0.05,
        label='Keep',
        info='of the photo in its faces: 0 none, 1 all',
        visible=False,
    )
    # Where there is nothing to turn it is hidden, and what a visitor sends is no fidelity.
    faithful = gr.Slider(
        0,
        1,
        fidelity,
        step=0.05,
        label='Fidelity',
        info='1 nearest to the truth, 0 sharper, with more that is invented',
        visible=fidelity is not None,
    )
    # What is typed beside them may be any number.
    keep.preprocess = lambda value: min(max(value or 0.0, 0.0), 1.0)
    faithful.preprocess = lambda value: (
        None if fidelity is None else min(max(fidelity if value is None else value, 0.0), 1.0)
    )
    return upload, scale, auto, keep, faithful, gr.Button('Restore', variant='primary')


def _told(gr: Any) -> tuple[Any, Any, Any]:
    """What a visitor is told: a sentence, photo and result, the file."""
    said = gr.Textbox(label='Result', interactive=False)
    views = gr.ImageSlider(label='Before and after', interactive=False, buttons=['fullscreen'])
    return said, views, gr.DownloadButton(interactive=False)


def _gallery(gr: Any) -> Any:
    """The faces before and after."""
    # As high as its rows; without a height it has one of its own.
    return gr.Gallery(label='Faces', columns=4, height='fit-content', buttons=[], visible=False)


def _refuse_addresses(given: Sequence[Any]) -> None:
    """Let components take what was uploaded alone: gradio fetches what an address names, too, also
    one that is sent in the place of a number.
    """
    for component in given:
        component.async_move_resource_to_block_cache = _uploads_alone(component)


def _uploads_alone(component: Any) -> Any:
    move = component.async_move_resource_to_block_cache

    async def moved(path: str) -> str | None:
        return None if '://' in path else await move(path)

    return moved


# ------------------------------------------------------------------------------------------------
# The server.


def free_port(host: str, port: int) -> int:
    """Return the port, or one that is free for 0. Raises RunError where it cannot be used."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family) as tried:
            return int(tried.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise RunError(
                f'--port {port} is taken by another program: give another one, or --port 0 for '
                'any that is free'
            ) from error
        raise RunError(
            f'--host {host} --port {port} cannot be used ({error.strerror}): leave them out for '
            'http://127.0.0.1:7860'
        ) from error


def serve(blocks: Any, host: str, port: int, most_bytes: int) -> None:
    """Serve the page until the program is stopped."""
    name = f'[{host}]' if ':' in host else host
    blocks.launch(
        server_name=name,
        server_port=port,
        max_file_size=most_bytes,
        prevent_thread_lock=True,
        quiet=True,
        share=False,
        inbrowser=False,
        run_history=False,
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
    )
    try:
        print(f'http://{name}:{port} (Ctrl-C ends it)', flush=True)
        if host not in LOOPBACK:
            print(f'--host {host}: everybody who reaches this machine can use it', flush=True)
        threading.Event().wait()
    finally:
        blocks.close(verbose=False)


# ------------------------------------------------------------------------------------------------
# The command.


def parser() -> argparse.ArgumentParser:
    """Flags of demo.py."""
    p = arguments.described(__doc__)
    p.add_argument('--run', help='run directory, of a restorer (default: --weights)')
    p.add_argument(
        '--weights',
        help=f'weights instead of a run: {", ".join(shipped.names())}, which come along, or a '
        f'file (default: between both of them, as visitors choose)',
    )
    loading.add_fidelity(p)
    p.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where the network runs (default: %(default)s)',
    )
    p.add_argument(
        '--precision', choices=('bf16', 'fp16', 'fp32'), help='default: as the run was trained'
    )
    photo_flags.add_parser(p)
    photo_flags.add_detector(p)
    p.add_argument(
        '--host',
        default='127.0.0.1',
        help='address to listen at; 0.0.0.0 lets everybody in who reaches this machine (default: '
        '%(default)s, this machine alone)',
    )
    p.add_argument(
        '--port',
        type=program.Whole(0, 65_535),
        default=7860,
        help='0: any that is free (default: %(default)s)',
    )
    _add_limits(p)
    # What infer.py has flags for, as it is without them.
    p.set_defaults(**photo_flags.defaults(), batch=8, tta=False)
    return p


def _add_limits(p: argparse.ArgumentParser) -> None:
    """Add what a visitor may ask for."""
    p.add_argument(
        '--max-pixels',
        type=program.Whole(1, MOST),
        default=PIXELS,
        help=f'largest photo, and largest result, width x height (default: {PIXELS:,})',
    )
    p.add_argument(
        '--max-mb',
        type=program.ranges.MEGABYTES,
        default=50.0,
        help='largest file that is taken (default: %(default)s)',
    )
    p.add_argument(
        '--queue',
        type=program.ranges.COUNT,
        default=10,
        help='photos that may wait for their turn (default: %(default)s)',
    )


def need_packages() -> None:
    """Raise RunError with the remedy unless what makes pages is installed."""
    try:
        importlib.import_module('gradio')
    except ImportError as error:
        raise RunError(f'the package {error.name} is needed: pip install -e .[demo]') from error


def restorer_of(args: argparse.Namespace) -> Restorer:
    """Load what the flags name. Raises RunError."""
    if args.fidelity is None:
        dial = None
        loaded = loading.load(args.run, args.weights, args.device, usual=True)
    else:
        loading.check(args.run, args.weights, args.device, args.fidelity)
        loaded, dial = loading.turnable(args.device)
        dial(args.fidelity)
    if loaded.task.name != 'restore':
        name = f'--run {args.run}' if args.run else f'--weights {args.weights}'
        raise RunError(f'{name} is of a {loaded.task.name} run: give one that restores')
    tools = photo_flags.build(args, loaded)
    return Restorer(tools, args.max_pixels, round(args.max_mb * 1e6), dial)


@program.entry
def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page that the command line asks for -> exit status."""
    args = parser().parse_args(argv)
    # With the weights that come along, visitors choose between both.
    if args.fidelity is None and not (args.run or args.weights):
        args.fidelity = 1.0
    # Ends as a Ctrl-C does: the temporary folder is deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    port = free_port(args.host, args.port)
    with tempfile.TemporaryDirectory(prefix='faces-demo-') as folder:
        os.environ.update(SETTINGS, GRADIO_TEMP_DIR=folder)
        need_packages()
        restorer = restorer_of(args)
        ask = functools.partial(answer, restorer, folder)
        blocks = page(ask, restorer.limits, args.queue, args.fidelity)
        serve(blocks, args.host, port, restorer.most_bytes)
    return 0


if __name__ == '__main__':
    sys.exit(main())

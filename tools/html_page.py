"""Pages that are one file: they look the same without a network, and by day and by night."""

import base64
import html
import io

from PIL import Image

# Nothing is fetched, whatever a name of a file or run may hold.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = (
    ':root{color-scheme:light dark}'
    'body{font:15px/1.5 sans-serif;max-width:1200px;margin:2em auto;padding:0 1em;color:#222;'
    'background:#fff}'
    'table{border-collapse:collapse;margin:1em 0}'
    'td,th{border-bottom:1px solid #ddd;padding:.3em .8em;text-align:left}td.n{text-align:right}'
    'tr.best td{font-weight:bold}img{max-width:100%}h1,h2{font-weight:600}'
    '@media(prefers-color-scheme:dark){body{color:#ddd;background:#171717}'
    'td,th{border-color:#444}a{color:#8ab4f8}}'
)


def document(title: str, body: str, style: str = '') -> str:
    """The page. body: HTML; style: CSS beyond STYLE"""
    return (
        '<!doctype html><html lang=en><head><meta charset=utf-8>'
        '<meta name=viewport content="width=device-width">'
        f'<meta http-equiv=Content-Security-Policy content="{POLICY}">'
        f'<title>{text(title)}</title><style>{STYLE}{style}</style></head>'
        f'<body>{body}</body></html>'
    )


def text(value: object) -> str:
    """A value as text of a page, or of an attribute in quotation marks; names may hold anything."""
    return html.escape(str(value))


def picture(image: Image.Image, alt: str) -> str:
    """An image as HTML that needs no file. alt: what it shows, for those who do not see it"""
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="{text(alt)}">'

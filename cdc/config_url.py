"""URLs in connectors.yaml: the right scheme, and parts that are where they seem to be."""

from __future__ import annotations

from urllib.parse import urlsplit

from cdc.config_yaml import Section

_SAME_PROTOCOL = {"valkey": "redis", "valkeys": "rediss"}


def read_url(section: Section, schemes: tuple[str, ...] = (), example: str = "SCHEME://...") -> str:
    """The section's `url`; no schemes: any. Messages never show it, since it may hold a password.

    A raw `@` or `/` in a password moves the parts; it is told to be percent-encoded.
    """
    url = section.text("url")
    if not url or "url" not in section:
        return url
    scheme, colon, rest = url.partition("://")
    if not colon or (schemes and scheme not in schemes):
        hint = f"write it as {example}"
        if _SAME_PROTOCOL.get(scheme) in schemes:
            hint = f"write {_SAME_PROTOCOL[scheme]}:// in its place: the protocol is the same"
        section.note("url", f"url is no {' or '.join(schemes) or 'URL'} URL", hint)
    elif rest.count("@") > 1 or not _is_sound(url):
        section.note(
            "url",
            "url cannot be taken apart",
            "percent-encode @ : / ? # in user name and password (@ is %40, / is %2F)",
        )
    return url


def _is_sound(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return "@" not in parts.path + parts.query + parts.fragment

"""An Elasticsearch for the demo, where one answers: one is not brought along.

Its address is DEMO_ELASTICSEARCH_URL (user:password@ may stand in it), or localhost:9200.
"""

from __future__ import annotations

import base64
import json
import os
import urllib.request
from typing import Any
from urllib.parse import unquote, urlsplit

DEFAULT_URL = "http://localhost:9200"
INDEX = "cdc-demo-orders"
SINK = f"""\
  search:
    type: elasticsearch
    url: ${{DEMO_ELASTICSEARCH_URL:-{DEFAULT_URL}}}
    from: order_search
    index: {INDEX}
"""


def elasticsearch_answers() -> tuple[bool, str]:
    """Whether there is one, and its version or why not."""
    try:
        nodes = _ask("GET", "/_nodes?filter_path=nodes.*.version")["nodes"].values()
    except (OSError, ValueError, KeyError) as error:
        named = "DEMO_ELASTICSEARCH_URL" in os.environ
        where = "the one of DEMO_ELASTICSEARCH_URL" if named else DEFAULT_URL
        return False, f"{where} does not answer ({error})"
    return True, str(min(node["version"] for node in nodes))


def remove_indices() -> None:
    """What the demo made there; `cdc remove` leaves people's data alone."""
    for index in _ask("GET", f"/{INDEX}*?expand_wildcards=all"):
        _ask("DELETE", f"/{index}")


def _ask(method: str, path: str) -> Any:
    """The answer's JSON. Raises OSError (also for statuses from 400 on), ValueError."""
    url = urlsplit(os.environ.get("DEMO_ELASTICSEARCH_URL", DEFAULT_URL))
    address = url._replace(netloc=url.netloc.rpartition("@")[2], path=url.path.rstrip("/") + path)
    request = urllib.request.Request(address.geturl(), method=method)
    if url.username:
        user = f"{unquote(url.username)}:{unquote(url.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)

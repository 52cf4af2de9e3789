"""Messages about a Kafka log without the secrets that its settings hold.

librdkafka quotes settings in some of its errors: sasl.oauthbearer.config as far as it has not
understood it.
"""

from __future__ import annotations

import re

from confluent_kafka import KafkaException

from cdc.config import LogConfig
from cdc.errors import ConfigError, mask_url

_SECRET = re.compile(r"(?i)passw|secret|\bkey|token|oauth|jaas|pem\b|user\.info|credential")
LEAST = 4
"""Shorter ones would take letters out of words."""
_REST_OF_VALUE = re.compile(r"(?i)(beginning at:?\s*).*", re.DOTALL)


def without_secrets(text: str, log: LogConfig) -> str:
    """`text` less what `config` and the registry's settings hold in secret."""
    settings = {**log.config, **log.registry_config}
    secrets = [v for name, v in settings.items() if len(v) >= LEAST and _SECRET.search(name)]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return _REST_OF_VALUE.sub(r"\1***", mask_url(text))


def registry_host(url: str) -> str:
    """A registry's URL without user and password."""
    return re.sub(r"//[^/@]*@", "//", url)


def refused_settings(error: KafkaException, log: LogConfig) -> ConfigError:
    """What librdkafka says to settings that it does not take: unknown, or of a wrong value."""
    return ConfigError(
        without_secrets(error.args[0].str(), log),
        where="log.config",
        hint="see librdkafka's CONFIGURATION.md for its settings",
    )

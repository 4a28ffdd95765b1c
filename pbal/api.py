"""All that a plugin may import. Re-exports, nothing else; a bundled plugin uses no door that others lack."""

from pbal.http1.encoder import Fields, IllegalField
from pbal.http1.events import RequestHead, ResponseHead
from pbal.lang.lexical import quoted, quoted_word
from pbal.lang.mistakes import did_you_mean
from pbal.model.asking import NoAnswer, NodeAnswer
from pbal.model.buckets import Buckets, holder
from pbal.model.clock import Clock, ManualClock
from pbal.model.conversation import Conversation, OwnRole, Wire
from pbal.model.deliveries import PATIENCE, OnLost
from pbal.model.errors import AnswerRefused, ConfigError, UnknownName
from pbal.model.exchange import Exchange
from pbal.model.explaining import Explanation
from pbal.model.gate import Denied, Passwords, address_of, credentials
from pbal.model.hooks import Verdict, hook
from pbal.model.hosts import Hosts, plain_host
from pbal.model.networks import NetworkTable
from pbal.model.parking import Parked, Upgraded, Waiting
from pbal.model.plugin import Plugin
from pbal.model.pool import Node
from pbal.model.remembered import Remembered
from pbal.model.searching import Searches, TookTooLong
from pbal.model.served import FileFound, Lookup
from pbal.model.service import Service
from pbal.model.trust import Networks
from pbal.model.world import World
from pbal.net.tasks import spawn
from pbal.observe.counters import Counter
from pbal.observe.histogram import Histogram
from pbal.observe.limits import Limit
from pbal.observe.memory import resident_bytes
from pbal.schema.commands import OK, CommandError, Reply, Rows, Text, ahead, bad_argument
from pbal.schema.kinds import BadValue, Kind
from pbal.schema.passwords import PASSWORDS
from pbal.schema.people import Unit
from pbal.schema.roles import Role
from pbal.schema.tunables import Applies, Tunable
from pbal.schema.types import (
    BOOL,
    DURATION,
    ENDPOINT,
    INT,
    NETWORKS,
    ORIGINS,
    PATH,
    REGEX,
    SIZE,
    TEXT,
    TOKENS,
    WORDS,
    Endpoint,
    Network,
    Type,
    enum,
    name_of,
)

__all__ = [
    "BOOL", "DURATION", "ENDPOINT", "INT", "NETWORKS", "OK", "ORIGINS", "PASSWORDS", "PATH", "PATIENCE", "REGEX", "SIZE", "TEXT", "TOKENS",
    "WORDS",
    "AnswerRefused", "Applies", "BadValue", "Buckets", "Clock", "CommandError", "ConfigError", "Conversation", "Counter", "Denied",
    "Endpoint", "Exchange", "Explanation", "Fields", "FileFound", "Histogram", "Hosts", "IllegalField", "Kind", "Limit", "Lookup",
    "ManualClock", "Network", "NetworkTable", "Networks", "NoAnswer", "Node", "NodeAnswer", "OnLost", "OwnRole", "Parked", "Passwords",
    "Plugin", "Remembered", "Reply", "RequestHead", "ResponseHead", "Role", "Rows", "Searches", "Service", "Text", "TookTooLong", "Tunable",
    "Type", "Unit", "UnknownName", "Upgraded", "Verdict", "Waiting", "Wire", "World", "address_of", "ahead", "bad_argument", "credentials",
    "did_you_mean", "enum", "holder", "hook", "name_of", "plain_host", "quoted", "quoted_word", "resident_bytes", "spawn",
]  # fmt: skip

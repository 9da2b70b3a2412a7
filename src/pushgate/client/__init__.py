"""The SDK for backends: seal a message for one phone, send notifications to a gateway, learn which pushkeys are dead.

    KeyChain, seal, open_sealed                 keychain.py, sealing.py
    PushGatewayClient, SyncPushGatewayClient    sender.py, blocking.py
    NotifyResult, BatchResult, ItemResult       results.py
    ClientError and what grows from it          errors.py

The gateway itself never imports this package: it cannot open what is sealed.
"""

from pushgate.client.attempts import Retries
from pushgate.client.blocking import SyncPushGatewayClient
from pushgate.client.errors import (
    AnswerUnusable,
    CiphertextError,
    ClientConfigError,
    ClientError,
    GatewayError,
    GatewayRefused,
    GatewayUnavailable,
    GatewayUntrusted,
    MessageError,
    MonthError,
    PaddingError,
    RequestUnusable,
    SealingError,
    SecretError,
    StateError,
    UnknownKeyError,
)
from pushgate.client.keychain import KeyChain, MonthKey, Secret, month_of, new_iss, new_key_identifier
from pushgate.client.results import BatchResult, ItemResult, ItemStatus, NotifyResult, Summary
from pushgate.client.sealing import MAX_MESSAGE_BYTES, Sealed, open_sealed, seal
from pushgate.client.sender import Item, PushGatewayClient
from pushgate.model import Counts, Device, EncryptedNotification, PlainNotification, Prio

__all__ = [
    "MAX_MESSAGE_BYTES",
    "AnswerUnusable",
    "BatchResult",
    "CiphertextError",
    "ClientConfigError",
    "ClientError",
    "Counts",
    "Device",
    "EncryptedNotification",
    "GatewayError",
    "GatewayRefused",
    "GatewayUnavailable",
    "GatewayUntrusted",
    "Item",
    "ItemResult",
    "ItemStatus",
    "KeyChain",
    "MessageError",
    "MonthError",
    "MonthKey",
    "NotifyResult",
    "PaddingError",
    "PlainNotification",
    "Prio",
    "PushGatewayClient",
    "RequestUnusable",
    "Retries",
    "Sealed",
    "SealingError",
    "Secret",
    "SecretError",
    "StateError",
    "Summary",
    "SyncPushGatewayClient",
    "UnknownKeyError",
    "month_of",
    "new_iss",
    "new_key_identifier",
    "open_sealed",
    "seal",
]

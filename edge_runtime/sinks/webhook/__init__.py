"""Results to a web server."""

from edge_runtime.sinks.webhook.config import WebhookConfig
from edge_runtime.sinks.webhook.sink import WebhookSink

__all__ = ["WebhookConfig", "WebhookSink"]

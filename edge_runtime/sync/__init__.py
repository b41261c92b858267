"""Rows and updates over MQTT: outbox, frames, link and transports."""

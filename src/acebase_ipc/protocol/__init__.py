"""The wire protocol in both directions: messages, frames, envelopes and values. Pure."""

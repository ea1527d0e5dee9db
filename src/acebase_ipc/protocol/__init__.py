"""What travels on the wire, in both directions: messages, frames, envelopes and values. Pure."""

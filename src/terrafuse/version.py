"""The version, where every room can read it without importing the verbs."""

VERSION = "0.1.0"

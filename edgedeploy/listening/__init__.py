"""Listening for words: from the scores of a stream, frame by frame, to what was said and when that was known."""

from edgedeploy.listening.account import Account, Tally
from edgedeploy.listening.events import Answer, Decision, Event, Utterance
from edgedeploy.listening.listener import Listener, top
from edgedeploy.listening.policy import Policy

__all__ = ["Account", "Answer", "Decision", "Event", "Listener", "Policy", "Tally", "Utterance", "top"]

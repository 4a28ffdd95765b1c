"""The moment between a node's response and the client: its head has come whole, and nothing of it has gone out.

A Decider may take the response then: it is somebody else's instruction (reproxying), or one that another attempt or another pool should
replace. Once the head is committed nothing can be taken back, so whoever may want a response to be another one has to be here.

    decide() -> False     the next one looks; in the end the response goes to the client
    decide() -> True      the decider has called one of the verbs of Undecided, and the response is not the client's

part() leaves the exchange to the decider, as new: it answers, hands it to another service, or relays it once more. The connection goes
back to its node's others at once: who sends a file for a minute holds no node.
"""

from abc import ABCMeta, abstractmethod

from pbal.http1.events import ResponseHead
from pbal.roles.proxy.decide import Undecided


class Decider(metaclass=ABCMeta):
    """Looks at responses before they are the client's."""

    @abstractmethod
    def decide(self, relay: Undecided, head: ResponseHead) -> bool:
        """Whether it took the response. See above."""

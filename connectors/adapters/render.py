"""From a delivery to the content that is sent: the one place where templates will be rendered."""

from __future__ import annotations

import msgspec

from connectors.adapters.channel import Unsendable
from messages.delivery import Delivery
from messages.event import Content


def render(delivery: Delivery) -> Content:
    """The content of a delivery: the literal one, else the template's name and parameters as data for the app.

    Unsendable where the delivery has neither.
    """
    if delivery.content is not None:
        return delivery.content
    if delivery.template is None:
        raise Unsendable("no_content")
    return Content(data={"template": delivery.template, "params": msgspec.json.encode(delivery.params or {}).decode()})

"""A ClientApp in which one site gives its keys and then crashes; the others behave."""

from flwr.app import Context
from wrapped_site import CrashingSite

from client.app import client_app, site_of_this_machine
from client.training.site_trainer import AnsweringSite


def site_for(context: Context) -> tuple[str, AnsweringSite]:
    site, inner = site_of_this_machine(context)
    return site, CrashingSite(inner) if site == "north" else inner


app = client_app(site_for)

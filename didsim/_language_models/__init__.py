"""The commands `didsim llm …`: thin, and quick to load; the work is done in `didsim.llm`."""

import click

from didsim._language_models._doctor import doctor
from didsim._language_models._entropy import entropy
from didsim._language_models._eval import evaluate
from didsim._language_models._pairs import pairs
from didsim._language_models._train import train
from didsim._terminal import common_options


@click.group(name="llm", short_help="Train and examine language models; needs the extra didsim[llm].")
@common_options
def llm() -> None:
    """Train and examine language models with the losses of the laboratory (pip install 'didsim[llm]').

    Models and data are read from local files unless --hub is given; weights are read from safetensors only, and no
    code that comes with a model is run.
    """


llm.add_command(evaluate)
llm.add_command(train)
llm.add_command(doctor)
llm.add_command(entropy)
llm.add_command(pairs)

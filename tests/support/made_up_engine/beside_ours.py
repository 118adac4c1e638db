"""A folder of engine files joins ours in this process; importing this is all it takes. For processes of their own."""

import os

import agent.engines

agent.engines.__path__.append(os.environ["MADE_UP_ENGINES"])

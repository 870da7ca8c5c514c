"""Maps that know the frozen weight W0: what a layer stands for is a function of both."""

from zoo import say_where_names_are

say_where_names_are(__name__)

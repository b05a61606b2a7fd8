"""What is read and kept in the Config, but not acted on yet.

Each line is a directive or an option of one, as its grammar calls it.  ``-n -v`` reports every place that uses one;
a line goes when the daemon obeys it.
"""

NOT_IN_EFFECT = frozenset({
    "proc",
    "filter",
    "listen filter",
    "action relay filter",
})

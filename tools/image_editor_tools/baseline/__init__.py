"""image-editor-baseline: measure the platform at its sources, and say whether a change made it worse.

Role baseline calls it on the hosts of PostgreSQL and Redis and on the controller (docs/baseline.md). Modules by subject:

metrics     what is compared
sampling    connections to the database and Redis's memory, once a second
edits       what became of the edits, from the table of edits
load        a client that submits edits at a constant rate (on the controller)
records     one record of everything that was measured
comparison  two records, metric by metric
report      the comparison as text
plot        the comparison as an SVG image
main        the command line

The sources are read directly and not from Prometheus: a baseline from before monitoring was switched on could not come from
there, and two baselines that were measured in different ways could not be compared.
"""

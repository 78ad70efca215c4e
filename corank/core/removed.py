"""What earlier versions had and 0.1.0 left out, each with the way to the same end, for its error in this release."""

_SERVE = {
    "rate_limit": "a proxy limits rates now, such as by examples/operations/nginx.conf; remove it",
    "allow_origin": "serve the page and the service under one name: a proxy passes the header Host on",
    "access_log_users": "the log of served requests (--log) has the users, and the id of the access log's line",
    "canary": "start a second service with --version VERSION, and let a proxy split the users, such as by "
    "examples/operations/nginx/split.conf (docs/guides/rollout.md)",
    "shadow": "start a second service with --version VERSION, and let a proxy mirror the requests, such as by "
    "examples/operations/nginx/mirror.conf (docs/guides/rollout.md)",
}
_EXACT = "retrieval is exact; remove the key, or write vectors by `corank vectors` for an approximate index"
REMOVED = {
    "study": "its questions 1 to 9 are files of arms, run by corank experiment CONFIG NAME --rates 0.333,1,3 --metric "
    "joint_click_recall; NAME is architecture, purposes, structures, settings, quotas, consistency, ranker_first, "
    "towers or samples",
    **{
        f"{command} --address": "set RAY_ADDRESS, which Ray reads"
        for command in ("pack", "predict", "vectors")
    },
    "explain --requests": "20,000 requests are measured; in Python corank.explain(run, most=…)",
    **{f"simulate --{name}": f"in Python corank.simulate(out, {name}=…)" for name in ("walk", "lifetime")},
    "compare --truth": "compare the runs; their packed data have the truth",
    "compare-served --top": "the top 10 are compared",
    "tune --space": "give the file by --search",
    "vectors --index": "corank builds no index; write vectors.npy, and add it to one of FAISS",
    **{f"serve --{key.replace('_', '-')}": way for key, way in _SERVE.items()},
    **{f"ServeSettings.{key}": way for key, way in _SERVE.items()},
    **dict.fromkeys(("RetrievalSettings.index", "RetrievalSettings.recall"), _EXACT),
}
"""A command, `COMMAND --option`, or a key of settings as `CLASS.key` → what to do."""

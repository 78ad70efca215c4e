"""Parts of packed data: whole requests, and counts of a split.

All arrays are npy or Arrow and are memory-mapped. `listN` is the N-th list feature: `start` and `length` of each row,
and the `values`. Packed data are an artifact (docs/bundle-format.md).

    packed/NAME/manifest.json       settings, fingerprint, splits, counts, size and SHA-256 of every file; written last
    packed/NAME/sets/HASH/          the same for another set of features
    packed/NAME/CONTENT/
      encoders/                     encoders.json, and vocabulary-N.arrow for each vocabulary
      users.arrow                   distinct users; `user.npy` below holds indices into it
      items/                        a row an item and valid_from: keys.arrow, ids.npy, numbers.npy, listN.*.npy;
                                    ordinals.npy: the number of its item among the distinct ones
      items/operands/  column.NAME.npy    what crosses and priors need of an item; columns that values name
      events/OF.EVENT.{items,times,offsets,ordinals}.npy    users' events, user by user, oldest first; of lists, list by
                                    list; keys.npy, attribute.NAME.npy, attribute_key.NAME.npy: hashes of ids; codes of
                                    what is `parallel_to` a history, and hashes of it
      counts/{train,valid,test}/    levelN.npy: each item's candidates of a level; levels.npy: their sums; seen.npy: the
                                    items that are a candidate at all; requests.npy: of each request, the levels that it
                                    has and the labels that are known of some candidate
      priors/N/                     counts of the N-th prior: by key, period by period
      state/                        what later packings take over: counts/N.arrow of the N-th feature's values;
                                    users.arrow, items.arrow: when each was seen last; events/N.arrow: newest events
      {train,valid,test}/PARTITION/
        request.arrow               the request key                        one row per request
        request_start.npy           where its candidates begin
        user.npy  time.npy          index of the user; milliseconds
        query/                      ids.npy, numbers.npy, listN.*.npy (a history: its part of events/), operands/
        item.npy  level.npy         row of items/; index in `levels`       one row per candidate
        label.NAME.npy              1, 0, −1 for unknown
        weight.npy  position.npy  truth.NAME.npy  column.NAME.npy     if the config has them
        propensity.npy              NaN outside of the random bucket; if the config has it
        score.NAME.npy              logits, NaN where there is none
        cross/                      ids.npy, numbers.npy, listN.*.npy
"""

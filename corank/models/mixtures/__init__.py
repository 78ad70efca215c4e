"""Several networks in one: members, whose predictions are averaged, and experts, which gates mix."""

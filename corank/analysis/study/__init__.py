"""Is joint training worth it here? Arms, trials and what they show, with intervals."""

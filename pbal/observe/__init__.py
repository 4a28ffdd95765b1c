"""What pbal can say about itself: counters, histograms, logging."""

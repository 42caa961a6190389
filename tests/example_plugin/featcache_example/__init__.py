"""One implementation of each of featcache's extension points."""

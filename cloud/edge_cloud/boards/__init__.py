"""What boards took for the bases that devices run: judged, kept, listed, handed on."""

"""How Go writes durations, timestamps, quoted texts and signals, since Nomad's JSON and messages have them so."""

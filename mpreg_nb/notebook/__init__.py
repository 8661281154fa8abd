"""What a notebook sees and types: magics, output of remote code, completion."""

"""Where the contracts live: an Ethereum virtual machine in this process, or a node behind JSON-RPC."""

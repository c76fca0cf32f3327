"""What superweights leaves on a disk, and takes from one: written whole or not at all, read strictly or refused."""

"""The words of the domain: values that cannot block, shared by every process."""

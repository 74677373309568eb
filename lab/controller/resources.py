"""What is there when a run's command starts: the same ids in every run."""

FLAVOR = '1'
IMAGE = '656d7074-0000-4000-8000-000000000001'
IMAGE_FILE = '/var/lib/lab/empty.qcow2'
NETWORK = '6e657477-0000-4000-8000-000000000001'

#!/bin/bash
# The study winds, sent by hand: what `hpcinv submit` does, without its care (it sends nothing twice, and nothing
# that is complete). A job's run folder, with the resolved job file in it, is there before its script is sent.
# afterok: a job starts when those it reads from have ended well; if one has not, Slurm cancels it.
set -eu
cd "$(dirname "$0")"
folder() { mkdir -p "$1/logs" && cp "$2" "$1/job.yaml"; }
send() { sbatch --parsable "$@" | cut -d ';' -f 1; }

folder /scratch/you/runs/winds/train-diffusion 01_train-diffusion.yaml
j1=$(send 01_train-diffusion.sbatch)

folder /scratch/you/runs/winds/reanalysis 02_reanalysis.yaml
j2=$(send --dependency=afterok:$j1 --kill-on-invalid-dep=yes 02_reanalysis.sbatch)

echo 'sent; to follow: hpcinv status winds --runs /scratch/you/runs'

#!/bin/bash
# The study winds, sent by hand: what `hpcinv submit` does, without its care (it sends nothing twice, and nothing
# that is complete). A job's run folder, with the resolved job file in it, is there before its script is sent.
# afterok: a job starts when those it reads from have ended well; if one has not, Slurm cancels it.
set -eu
cd "$(dirname "$0")"
folder() { mkdir -p "$1/logs" && cp "$2" "$1/job.yaml"; }
send() { sbatch --parsable "$@" | cut -d ';' -f 1; }

folder /scratch/you/runs/winds/import 01_import.yaml
j1=$(send 01_import.sbatch)

folder /scratch/you/runs/winds/observe 02_observe.yaml
j2=$(send --dependency=afterok:$j1 --kill-on-invalid-dep=yes 02_observe.sbatch)

folder /scratch/you/runs/winds/train-autoencoder 03_train-autoencoder.yaml
j3=$(send --dependency=afterok:$j1 --kill-on-invalid-dep=yes 03_train-autoencoder.sbatch)

folder /scratch/you/runs/winds/encode 04_encode.yaml
j4=$(send --dependency=afterok:$j1:$j3 --kill-on-invalid-dep=yes 04_encode.sbatch)

folder /scratch/you/runs/winds/train-diffusion 05_train-diffusion.yaml
j5=$(send --dependency=afterok:$j4 --kill-on-invalid-dep=yes 05_train-diffusion.sbatch)

folder /scratch/you/runs/winds/reanalysis 06_reanalysis.yaml
j6_0=$(send --dependency=afterok:$j1:$j2:$j5:$j3 --kill-on-invalid-dep=yes 06_reanalysis.array.sbatch)
j6=$(send --dependency=afterok:$j6_0 --kill-on-invalid-dep=yes 06_reanalysis.join.sbatch)

folder /scratch/you/runs/winds/climatology 07_climatology.yaml
j7=$(send --dependency=afterok:$j1 --kill-on-invalid-dep=yes 07_climatology.sbatch)

folder /scratch/you/runs/winds/oi-eof 08_oi-eof.yaml
j8=$(send --dependency=afterok:$j1:$j2 --kill-on-invalid-dep=yes 08_oi-eof.sbatch)

folder /scratch/you/runs/winds/oi-localised 09_oi-localised.yaml
j9=$(send --dependency=afterok:$j1:$j2 --kill-on-invalid-dep=yes 09_oi-localised.sbatch)

folder /scratch/you/runs/winds/persistence 10_persistence.yaml
j10=$(send --dependency=afterok:$j1 --kill-on-invalid-dep=yes 10_persistence.sbatch)

folder /scratch/you/runs/winds/evaluate 11_evaluate.yaml
j11=$(send --dependency=afterok:$j1:$j6:$j9:$j8:$j10:$j7 --kill-on-invalid-dep=yes 11_evaluate.sbatch)

folder /scratch/you/runs/winds/report 12_report.yaml
j12=$(send --dependency=afterok:$j11:$j6:$j1:$j2 --kill-on-invalid-dep=yes 12_report.sbatch)

echo 'sent; to follow: hpcinv status winds --runs /scratch/you/runs'

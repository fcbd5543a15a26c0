# Daemon and facade in the foreground; --demo runs them against the simulated gateway. Same code as ./scripts/start.
$project = Join-Path $PSScriptRoot 'project.py'
if ($env:VIRTUAL_ENV) { & (Join-Path $env:VIRTUAL_ENV 'Scripts\python.exe') $project start @args }
elseif (Get-Command py -ErrorAction SilentlyContinue) { & py -3 $project start @args }
else { & python $project start @args }
exit $LASTEXITCODE

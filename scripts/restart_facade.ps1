# Replace the facade's serving process; the session is not touched. Same code as ./scripts/restart_facade.
$project = Join-Path $PSScriptRoot 'project.py'
if ($env:VIRTUAL_ENV) { & (Join-Path $env:VIRTUAL_ENV 'Scripts\python.exe') $project restart_facade @args }
elseif (Get-Command py -ErrorAction SilentlyContinue) { & py -3 $project restart_facade @args }
else { & python $project restart_facade @args }
exit $LASTEXITCODE
